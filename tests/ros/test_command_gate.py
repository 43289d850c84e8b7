"""command_gate as a process, over real DDS: what it sends, what it refuses, and how it comes back."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import JointState
from support import tiny
from support.gate_rig import PERIOD_S, Rig, judge_velocities, wait_until

from edgevlm.bundle import read_manifest
from edgevlm_ros.processes import Processes, environment
from edgevlm_ros.stamps import to_ns

VELOCITY, ACCELERATION, VALID_S, DEADLINE_S = 0.2, 0.5, 0.1, 0.25
COMMANDS = {"command/twist": TwistStamped, "command/gripper": JointState}
TIMES = {
    "autostart": True,
    "autostart_period_s": 0.1,
    "diagnostics_period_s": 0.1,
    "command_period_s": PERIOD_S,
    "command_valid_s": VALID_S,
    "deadline_ms": DEADLINE_S * 1000,
    "recover_after_s": 0.1,
}
LIMITS: dict[str, Any] = {
    "axes.dx.state": "x",
    "axes.dx.position": [-0.1, 0.1],
    "axes.dx.velocity": VELOCITY,
    "axes.dx.acceleration": ACCELERATION,
    "axes.dy.velocity": VELOCITY,
    "axes.dy.acceleration": ACCELERATION,
}
UNLIMITED = Path(__file__).with_name("unlimited_gate.py")
FAST, CALM, STILL = [0.06, 0.0, 1.0], [0.002, 0.0, 1.0], [0.0, 0.0, 1.0]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.mono(tmp_path_factory.mktemp("bundles") / "mono")


@pytest.fixture(scope="module")
def processes(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with Processes(tmp_path_factory.mktemp("gate"), environment(domain)) as started:
        yield started


class Gates:
    """Gates in namespaces of their own, each with the rig on its other side."""

    def __init__(self, domain: int, bundle: Path, processes: Processes) -> None:
        self._domain, self._bundle, self._processes = domain, bundle, processes
        self._rigs: dict[str, Rig] = {}

    def __call__(self, namespace: str, program: str | Path = "edgevlm_ros.command_gate", **parameters: Any) -> Rig:
        settings = {**TIMES, "bundle": str(self._bundle), **LIMITS, **parameters}
        self._processes.start(namespace, program, parameters=settings, namespace=namespace)
        opened = read_manifest(self._bundle)
        rig = Rig(self._domain, opened.manifest.contract, opened.sha256, COMMANDS, namespace=f"/{namespace}")
        rig.joints = {"x": 0.0, "y": 0.0, "grip": 0.0}
        self._rigs[namespace] = rig

        def move(topic: str, message: Any) -> None:
            if topic == "command/twist" and math.isfinite(message.twist.linear.x):
                rig.joints["x"] += message.twist.linear.x * PERIOD_S

        rig.on_command = move  # type: ignore[method-assign]
        return rig

    def close(self) -> None:
        for namespace, rig in self._rigs.items():
            self._processes.kill(namespace, signal.SIGINT)
            rig.close()


@pytest.fixture(scope="module")
def shared(domain: int, bundle: Path, processes: Processes) -> Iterator[Rig]:
    """One gate for all tests that leave it as it was."""
    gates = Gates(domain, bundle, processes)
    yield gates("one")
    gates.close()


@pytest.fixture
def start(domain: int, bundle: Path, processes: Processes) -> Iterator[Gates]:
    """Starts gates with other parameters, for one test."""
    gates = Gates(domain, bundle, processes)
    yield gates
    gates.close()


@pytest.fixture
def rig(shared: Rig) -> Rig:
    """The shared gate, following calm chunks near the middle of its range."""
    shared.row, shared.beats, shared.sees = STILL, True, True
    wait_until(lambda: shared.doing("follow"), 20)
    shared.joints["x"] = 0.0
    shared.row = CALM
    wait_until(lambda: shared.status is not None and shared.status.values[0] > 0.03)
    return shared


def test_what_the_chunk_says_is_sent_per_second_with_the_gripper(rig: Rig) -> None:
    wait_until(lambda: rig.of("command/twist")[-1].twist.linear.x == pytest.approx(0.04, abs=1e-6))
    status = rig.status
    assert status is not None
    assert (list(status.names), list(status.units)) == (["dx", "dy", "grip"], ["m/s", "m/s", "1"])
    grip = rig.of("command/gripper")[-1]
    assert (list(grip.name), list(grip.position)) == (["grip"], [1.0])
    twists, grips = ([to_ns(message.header.stamp) for message in rig.of(topic)] for topic in COMMANDS)
    assert twists[:-1] == grips[: len(twists) - 1]  # the newest may still be on its way


def test_no_command_on_the_wire_breaks_a_limit(rig: Rig) -> None:
    random = np.random.default_rng(4)
    begin = time.monotonic()
    furthest = 0.0
    for sign in random.choice([-1.0, 1.0], 30):
        rig.row = [0.06 * sign, 0.0, 1.0]
        time.sleep(0.08)
        furthest = max(furthest, abs(rig.joints["x"]))
    sent = rig.of("command/twist", begin)
    assert len(sent) > 60
    assert max(abs(message.twist.linear.x) for message in sent) > 0.9 * VELOCITY / 2
    assert judge_velocities(sent[1:], VELOCITY, ACCELERATION, VALID_S) <= 1  # the first one has no past here
    assert furthest <= 0.1
    assert int(rig.figures["limited"]["dx"]) > 10


@pytest.mark.slow
def test_without_limits_the_same_judge_finds_faults(start: Gates) -> None:
    """Control: a gate of this test's own, which the product does not have."""
    rig = start("off", UNLIMITED)
    rig.row = FAST
    wait_until(lambda: rig.doing("follow"), 20)
    begin = time.monotonic()
    for sign in (-1.0, 1.0) * 4:
        rig.row = [0.06 * sign, 0.0, 1.0]
        time.sleep(0.12)
    assert judge_velocities(rig.of("command/twist", begin)[1:], VELOCITY, ACCELERATION, VALID_S) > 10
    rig.row = None
    time.sleep(0.5)
    assert rig.doing("follow")  # the last row, for ever


@pytest.mark.parametrize(("what", "cause"), [("row", "chunk_missing"), ("beats", "heartbeat_missing")])
def test_holds_within_the_deadline_when_chunks_or_heartbeats_stop(rig: Rig, what: str, cause: str) -> None:
    setattr(rig, what, None if what == "row" else False)
    took_s = wait_until(lambda: rig.status is not None and rig.status.mode == "hold")
    # The last one came up to 0.1 s before; then the deadline, a period, and the way here on a busy machine.
    assert took_s < DEADLINE_S + PERIOD_S + 0.15
    wait_until(lambda: rig.of("command/twist")[-1].twist.linear.x == 0.0)
    wait_until(lambda: rig.doing("hold", cause) and rig.figures["gate"]["cause"] == cause)
    rig.row, rig.beats = CALM, True
    wait_until(lambda: rig.doing("follow"))


def test_a_pressed_emergency_stop_ends_commands_until_rearmed(rig: Rig) -> None:
    rig.press(True)
    wait_until(lambda: rig.doing("stop", "estop"))
    wait_until(lambda: rig.of("command/stop") and rig.of("command/stop")[-1].data)
    time.sleep(0.05)
    stopped = time.monotonic()
    time.sleep(0.3)
    assert not rig.of("command/twist", stopped)
    assert not rig.of("command/gripper", stopped)
    wait_until(lambda: len(rig.of("gate_status", stopped)) > 2)  # five times a second while nothing is sent
    refused = rig.rearm()
    assert (refused.success, "still pressed" in refused.message) == (False, True)
    rig.press(False)
    time.sleep(0.3)
    assert rig.doing("stop", "estop")
    assert rig.rearm().success
    wait_until(lambda: rig.doing("follow"))
    wait_until(lambda: not rig.of("command/stop")[-1].data)


@pytest.mark.parametrize(("topic", "kind"), [("command/twist", TwistStamped), ("joint_states", JointState)])
def test_holds_while_a_topic_has_a_second_publisher(rig: Rig, topic: str, kind: type) -> None:
    rival = rig.node.create_publisher(kind, topic, 10)
    try:
        # A publisher that was killed stays in the graph for as long; only one that stays longer is a rival.
        assert 2.0 < wait_until(lambda: rig.doing("hold", "publisher_conflict")) < 4.0
        wait_until(lambda: rig.figures["rivals"] == {"count": "1", "topics": topic})
    finally:
        rig.node.destroy_publisher(rival)
    wait_until(lambda: rig.doing("follow"))


def test_holds_at_once_while_two_sessions_send_chunks_and_a_restart_is_none(rig: Rig) -> None:
    def send_and_see() -> bool:
        rig.send_chunk(CALM, rig.now_ns(), session=99)
        return rig.doing("hold", "publisher_conflict")

    assert wait_until(send_and_see) < 1.0
    wait_until(lambda: rig.figures["rivals"] == {"count": "1", "topics": "action_chunk"})
    wait_until(lambda: rig.doing("follow"))


def test_a_chunk_of_another_bundle_is_refused(rig: Rig) -> None:
    rig.row = None
    before = int(rig.figures["refusals"]["chunk.bundle"])
    wait_until(lambda: rig.doing("hold", "chunk_missing"))
    for _ in range(5):
        rig.send_chunk(FAST, rig.now_ns(), bundle_sha256="0" * 64)
    wait_until(lambda: int(rig.figures["refusals"]["chunk.bundle"]) == before + 5)
    assert rig.doing("hold", "chunk_missing")


def test_what_cannot_be_used_is_refused_and_counted(rig: Rig, processes: Processes) -> None:
    before = dict(rig.figures["refusals"])
    rig.send_chunk([np.nan, 0.0, 0.0], rig.now_ns())
    rig.send_chunk(CALM, rig.now_ns(), schema_version=9)
    rig.send_chunk(CALM, rig.now_ns(), names=["dx", "dy", "other"])
    rig.send_chunk(CALM, rig.now_ns() + 10_000_000_000)
    for reason in ("not_finite", "schema", "names", "future"):
        key = f"chunk.{reason}"
        wait_until(lambda key=key: int(rig.figures["refusals"][key]) == int(before[key]) + 1)
    assert "expected schema version 1, got 9" in processes.log("one")


def test_nan_in_the_state_holds(rig: Rig) -> None:
    rig.joints["y"] = math.nan  # nobody limits by y, and still
    try:
        wait_until(lambda: rig.doing("hold", "state_not_finite"))
    finally:
        rig.joints["y"] = 0.0
    wait_until(lambda: rig.doing("follow"))


def test_parameters_are_refused_when_bad_and_frozen_while_active(start: Gates) -> None:
    rig = start("manual", autostart=False)
    wait_until(lambda: rig.messages.get("state") == "not active", 20)
    assert rig.change(Transition.TRANSITION_CONFIGURE)
    for name, value, reason in (
        ("axes.dx.velocity", -1.0, "axes.dx.velocity"),
        ("axes.dx.velocity", "fast", "expected a number"),
        ("axes.dx.position", [0.2, 0.1], "position must be (lowest, highest)"),
        ("axes.dx.state", "elbow", "'elbow'"),
        ("command_valid_s", 0.001, "must be at least command_period_s"),
        ("fallback.estop", "hold", "an emergency stop always stops"),
        ("fallback.chunk_spent", "panic", "fallbacks.chunk_spent"),
        ("latched", ["nonsense"], "latched"),
        ("latched", [], "an emergency stop always latches"),
        ("latched", ["tracking"], "an emergency stop always latches"),
        ("executor", "guess", "expected one of newest, ensembled, handed_over"),
    ):
        assert reason in rig.set(name, value), (name, value)
    assert rig.set("axes.dx.velocity", 0.1) == ""
    rig.row, rig.joints["x"] = FAST, -0.1
    assert not rig.of("gate_status")
    assert rig.change(Transition.TRANSITION_ACTIVATE)
    assert "cannot change while the node is active" in rig.set("axes.dx.velocity", 0.3)
    wait_until(lambda: any(message.twist.linear.x == 0.1 for message in rig.of("command/twist")))
    assert judge_velocities(rig.of("command/twist"), 0.1, ACCELERATION, VALID_S) == 0
    assert rig.change(Transition.TRANSITION_DEACTIVATE)
    time.sleep(0.1)
    begin = time.monotonic()
    time.sleep(0.2)
    assert not rig.of("gate_status", begin)
    assert not rig.of("command/twist", begin)


def test_in_lock_step_each_state_gets_one_command_once_its_chunk_is_there(start: Gates) -> None:
    slow: dict[str, Any] = {
        "deadline_ms": 10000.0,
        "recover_after_s": 0.0,
        "axes.dx.acceleration": 1e3,
        "axes.dx.velocity": 9.0,
    }
    slow["axes.dx.position"] = [-9.0, 9.0]
    rig = start("locked", lock_step=True, use_sim_time=True, command_period_s=0.05, **slow)
    rig.beats = rig.sees = False
    wait_until(lambda: rig.messages.get("state") == "active", 20)
    wait_until(lambda: rig.matched == 3)
    rig.beat(0)
    step_ns, begin_ns = 50_000_000, 10_000_000_000  # no clock runs: time is what the states say

    def stamps() -> list[int]:
        return [to_ns(status.header.stamp) - begin_ns for status in rig.of("gate_status")]

    def step(k: int, chunk: float | None, before: bool = False) -> None:
        """State k; with a chunk of its stamp, before the state or after a wait in which nothing may be sent."""
        done = len(stamps())
        if chunk is not None and before:
            rig.send_chunk([chunk, 0.0, 1.0], begin_ns + k * step_ns)
            time.sleep(0.05)
        rig.send_state(begin_ns + k * step_ns)
        if chunk is not None and not before:
            time.sleep(0.1)
            assert len(stamps()) == done
            rig.send_chunk([chunk, 0.0, 1.0], begin_ns + k * step_ns)
        wait_until(lambda: len(stamps()) > done, 2)

    # It executes two rows of each chunk; the last one belongs to another episode.
    for k, chunk, before in ((0, 0.01, False), (1, None, False), (2, 0.02, False), (3, None, False), (4, 0.03, True)):
        step(k, chunk, before)
    time.sleep(0.15)
    step(104, 0.04)
    assert stamps() == [k * step_ns for k in (0, 1, 2, 3, 4, 104)]
    assert all(status.mode == "follow" for status in rig.of("gate_status"))
    sent = [message.twist.linear.x for message in rig.of("command/twist")]
    assert sent == [float(np.float32(value)) / 0.05 for value in (0.01, 0.01, 0.02, 0.02, 0.03, 0.04)]


def test_it_runs_before_others_where_that_is_permitted(start: Gates, processes: Processes) -> None:
    rig = start("first", realtime_priority=3)
    wait_until(lambda: rig.status is not None, 20)
    threads = [int(path.name) for path in Path(f"/proc/{processes['first'].pid}/task").iterdir()]
    fifo = os.SCHED_FIFO in [os.sched_getscheduler(thread) for thread in threads]
    assert fifo != ("not permitted" in processes.log("first"))


def test_missing_limits_are_refused_by_the_names_of_their_parameters(start: Gates) -> None:
    rig = start("bare", **{"axes.dy.acceleration": 0.0})
    wait_until(lambda: "set the parameters axes.dy.acceleration;" in rig.messages.get("state", ""), 20)


def test_a_robot_of_another_kind_needs_no_other_code(
    domain: int, processes: Processes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("torch")
    from second_robot import robot

    folder = tmp_path_factory.mktemp("second")
    (folder / "topics.yaml").write_text(robot.MAP.replace("unit: deg", "unit: deg, command_unit: deg"))
    root = tiny.write_bundle(folder / "bundle", tiny.duo_parts(robot.contract()))
    limits = {f"axes.d_{joint}.{key}": 2.0 for joint in robot.JOINTS for key in ("velocity", "acceleration")}
    limits |= {f"axes.d_{joint}.state": joint for joint in robot.JOINTS}
    limits |= {"axes.d_jaw.position": [-0.5, 0.1]}
    settings = {**TIMES, "bundle": str(root), "topics": str(folder / "topics.yaml"), **limits}
    processes.start("second", "edgevlm_ros.command_gate", parameters=settings, namespace="second")
    topic = "command/joint_velocity"
    rig = Rig(
        domain,
        robot.contract(),
        read_manifest(root).sha256,
        {topic: JointState},
        namespace="/second",
        state_topic="driver/axes",
    )
    try:
        rig.joints = dict.fromkeys(robot.ORDER_ON_THE_ROBOT, 777.0)
        rig.joints |= dict.fromkeys(robot.NAMES_ON_THE_ROBOT.values(), 0.0)
        rig.joints["tool_jaw"] = math.degrees(0.0995)  # half a milliradian before its limit
        rig.row = [0.005] * len(robot.JOINTS)
        wait_until(lambda: rig.doing("follow"), 20)
        fast = math.degrees(0.1)  # the map says that the robot counts in degrees, and takes them
        wait_until(lambda: rig.of(topic)[-1].velocity[0] == pytest.approx(fast, abs=1e-4))
        message = rig.of(topic)[-1]
        assert list(message.name) == list(robot.NAMES_ON_THE_ROBOT.values())
        assert not message.position
        assert message.velocity[:6] == pytest.approx([fast] * 6, abs=1e-4)
        assert 0 <= message.velocity[6] < math.degrees(0.02)
    finally:
        rig.close()
