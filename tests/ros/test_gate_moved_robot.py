"""A gate in a process of its own, and a robot that stands where it was not sent; /clock that stops.

What goes over the wire is judged by the chaos suite's judge, which knows commands, measured positions and limits.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from ros.chaos.judge import Placed, Rules, Violation, judge
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from support import tiny
from support.gate_rig import PERIOD_S, Rig, wait_until
from trajectory_msgs.msg import JointTrajectory

from edgevlm.bundle import read_manifest
from edgevlm.manifest.contract import ActionGroup
from edgevlm_ros.processes import Processes, environment
from edgevlm_ros.stamps import to_ns, to_time

S = 1_000_000_000
VELOCITY, ACCELERATION, TRACKING, DEADLINE_S = 0.5, 5.0, 0.1, 0.25
TOPIC = "command/joint_trajectory"
TIMES = {
    "autostart": True,
    "autostart_period_s": 0.1,
    "diagnostics_period_s": 0.1,
    "command_period_s": PERIOD_S,
    "command_valid_s": 0.1,
    "deadline_ms": DEADLINE_S * 1000,
    "recover_after_s": 0.1,
}
AXIS = {"state": "x", "position": [-1.0, 1.0], "velocity": VELOCITY, "acceleration": ACCELERATION, "tracking": TRACKING}
RULES = Rules(
    placed=(Placed(TOPIC, 0, "joint_states", 0, -1.0, 1.0, VELOCITY, TRACKING),),
    period_s=PERIOD_S,
    valid_s=0.1,
    slack_s=0.1,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny.mono`, whose first column is the position of a joint."""
    contract = tiny.mono_contract()
    plain: dict[str, Any] = {"scale": (1.0,), "offset": (0.0,)}
    groups = (
        ActionGroup(kind="joint_position", names=("dx",), units=("rad",), lower=(-3.0,), upper=(3.0,), **plain),
        ActionGroup(kind="joint_velocity", names=("dy",), units=("rad/s",), lower=(-1.0,), upper=(1.0,), **plain),
        contract.action.groups[-1],
    )
    action = contract.action.model_copy(update={"groups": groups})
    assert contract.state is not None
    fields = tuple(field.model_copy(update={"unit": "rad"}) for field in contract.state.fields)
    state = contract.state.model_copy(update={"fields": fields})
    parts = tiny.mono_parts(4, "head", contract.model_copy(update={"action": action, "state": state}))
    return tiny.write_bundle(tmp_path_factory.mktemp("bundles") / "joint", parts)


@pytest.fixture(scope="module")
def processes(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with Processes(tmp_path_factory.mktemp("gate"), environment(domain)) as started:
        yield started


class Robot(Rig):
    """A joint that goes where it is sent, unless it is held; everything that goes over the wire is written down."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self.lines: list[dict[str, Any]] = []
        self.held = False
        super().__init__(*arguments, **more)
        self.joints = {"x": 0.0, "y": 0.0, "grip": 0.0}

    def send_state(self, stamp_ns: int) -> None:
        values = list(self.joints.values())
        self.lines.append({"k": "state", "topic": "joint_states", "r": time.time_ns(), "values": values})
        super().send_state(stamp_ns)

    def on_command(self, topic: str, message: Any) -> None:
        if topic != TOPIC:
            return
        stamp, values = to_ns(message.header.stamp), list(message.points[0].positions)
        now = time.time_ns()
        self.lines.append({"k": "command", "topic": topic, "r": now, "s": stamp, "stamp": stamp, "values": values})
        if not self.held:
            self.joints = {**self.joints, "x": values[0]}

    def violations(self) -> list[Violation]:
        return judge(list(self.lines), RULES)


Start = Callable[..., Robot]


@pytest.fixture
def start(domain: int, bundle: Path, processes: Processes) -> Iterator[Start]:
    begun: list[tuple[str, Robot]] = []

    def begin(name: str, x: float, program: str | Path = "edgevlm_ros.command_gate", **more: Any) -> Robot:
        opened = read_manifest(bundle)
        topics = {TOPIC: JointTrajectory, "command/joint_velocity": JointState, "command/gripper": JointState}
        robot = Robot(domain, opened.manifest.contract, opened.sha256, topics, namespace=f"/{name}")
        robot.joints["x"] = x
        axes = {f"axes.dx.{key}": value for key, value in AXIS.items()}
        axes |= {"axes.dy.velocity": 1.0, "axes.dy.acceleration": 5.0}
        settings = {**TIMES, "bundle": str(bundle), **axes, **more}
        processes.start(name, program, parameters=settings, namespace=name)
        begun.append((name, robot))
        return robot

    yield begin
    for name, robot in begun:
        processes.kill(name, signal.SIGINT)
        robot.close()


def test_from_outside_its_range_it_comes_back_at_limited_speed(start: Start) -> None:
    robot = start("outside", 1.08)
    robot.row = [0.9, 0.0, 0.0]
    wait_until(lambda: abs(robot.joints["x"] - 0.9) < 1e-5, 30)
    first = next(line for line in robot.lines if line["k"] == "command")
    assert 1.07 < first["values"][0] <= 1.08
    assert robot.violations() == []


def test_without_limits_the_same_robot_jumps(start: Start) -> None:
    """Control: the judge sees it."""
    robot = start("bare", 1.08, Path(__file__).with_name("unlimited_gate.py"))
    robot.held = True  # else a state that arrives with the command may already be where it leapt to
    robot.row = [0.5, 0.0, 0.0]
    wait_until(lambda: robot.of(TOPIC), 30)
    assert "jump" in {violation.kind for violation in robot.violations()}


def test_a_pushed_robot_is_let_go_and_followed_from_where_it_stands(start: Start) -> None:
    robot = start("pushed", 0.0)
    robot.row = [0.2, 0.0, 0.0]
    wait_until(lambda: abs(robot.joints["x"] - 0.2) < 1e-5, 30)
    robot.row = None
    wait_until(lambda: robot.doing("hold", "chunk_missing"))
    robot.held = True
    robot.joints = {**robot.joints, "x": 0.8}
    wait_until(lambda: robot.doing("hold", "tracking") and not robot.status.values)
    time.sleep(0.2)
    since = time.monotonic()
    time.sleep(0.3)
    assert not robot.of(TOPIC, since), "nobody pulls it back"
    robot.held = False
    robot.row = [0.7, 0.0, 0.0]
    wait_until(lambda: robot.doing("follow") and abs(robot.joints["x"] - 0.7) < 1e-5, 10)
    assert robot.violations() == []


def test_a_clock_that_stops_is_braked_by_steady_time_and_named(start: Start, bundle: Path) -> None:
    robot = start("clock", 0.0, use_sim_time=True)
    clock = robot.node.create_publisher(Clock, "/clock", 10)
    sim_ns, running = [10 * S], threading.Event()
    robot.now_ns = lambda: sim_ns[0]  # type: ignore[method-assign]
    running.set()
    over = threading.Event()

    def tick() -> None:
        while not over.wait(0.01):
            if running.is_set():
                sim_ns[0] += 10_000_000
                clock.publish(Clock(clock=to_time(sim_ns[0])))

    ticking = threading.Thread(target=tick)
    ticking.start()
    try:
        robot.row = [0.0, 1.0, 0.0]
        speed = "command/joint_velocity"
        wait_until(lambda: robot.of(speed) and robot.of(speed)[-1].velocity[0] == 1.0, 40)
        running.clear()
        stopped = time.monotonic()
        wait_until(lambda: robot.doing("hold", "clock_stopped"), 3)
        wait_until(lambda: robot.of(speed)[-1].velocity[0] == 0.0, 3)
        assert time.monotonic() - stopped < DEADLINE_S + 1.0 / 5.0 + 0.5
        sent = [message.velocity[0] for message in robot.of(speed, stopped)]
        assert all(b - a <= 1e-9 for a, b in pairwise(sent)), "it only brakes"
        assert max(a - b for a, b in pairwise(sent)) <= 5.0 * PERIOD_S * 1.01
        wait_until(lambda: "clock_stopped" in robot.messages.get("gate", ""), 3)
        running.set()
        wait_until(lambda: robot.doing("follow"), 5)
    finally:
        over.set()
        ticking.join()


def test_a_clock_that_never_starts_is_named(start: Start) -> None:
    robot = start("never", 0.0, use_sim_time=True)
    robot.now_ns = lambda: 0  # type: ignore[method-assign]
    wait_until(lambda: robot.doing("hold", "clock_stopped"), 30)
    assert not robot.of(TOPIC)
