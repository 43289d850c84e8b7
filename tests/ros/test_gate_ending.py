"""A gate that ends while the robot moves: brakes within the limits, and its last message leaves the robot at rest."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from lifecycle_msgs.msg import Transition
from support import tiny
from support.gate_rig import wait_until
from support.moving_gate import PARAMETERS, VELOCITY, Moving

from edgevlm.gate.gate import GateCommand
from edgevlm.gate.limits import AxisLimits, GateLimits
from edgevlm_ros.active_gate import ActiveGate
from edgevlm_ros.command_gate import PeriodicThread
from edgevlm_ros.processes import Processes, environment


@pytest.fixture
def start(domain: int, tmp_path: Path) -> Iterator[Callable[..., Moving]]:
    robots: list[Moving] = []

    def begin(**parameters: Any) -> Moving:
        robots.append(Moving(domain, tmp_path / str(len(robots)), **parameters))
        return robots[-1]

    yield begin
    for moving in robots:
        moving.close()


THREADS_LEFT = Path(__file__).parent / "threads_left.py"


def test_a_gate_that_ends_leaves_no_thread_of_dds(start: Callable[..., Moving]) -> None:
    """One that is still there crashes now and then while the process takes its libraries down."""
    moving = start(child=THREADS_LEFT)
    moving.process.send_signal(signal.SIGINT)
    assert moving.process.wait(10) == 0
    assert moving.processes.log("gate").splitlines()[-1] == "left: []"


def test_a_node_that_is_refused_in_its_constructor_leaves_none_either(domain: int, tmp_path: Path) -> None:
    with Processes(tmp_path, environment(domain)) as processes:
        process = processes.start("recorder", THREADS_LEFT, arguments=["edgevlm_ros.recorder:Recorder"])
        assert process.wait(30) == 0
        lines = processes.log("recorder").splitlines()
        assert "nothing to record" in lines[-2] and lines[-1] == "left: []"


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT, signal.SIGTERM]])
def test_a_signal_brakes_within_the_limits_and_the_last_command_rests(
    start: Callable[..., Moving], numbers: list[int]
) -> None:
    moving = start()
    begun = moving.faults()
    for number in numbers:
        moving.process.send_signal(number)
        time.sleep(0.05)
    assert moving.process.wait(10) == 0
    wait_until(lambda: moving.rates()[-1] == 0.0 and moving.rig.doing("hold", "deactivated"))
    assert moving.faults() == begun
    assert len([rate for rate in moving.rates()[-40:] if 0 < rate < VELOCITY]) > 10  # it braked, it did not jump
    assert moving.stops()[-1:] == [False]  # True before it: no button had said anything yet
    log = moving.processes.log("gate")
    assert "Traceback" not in log
    assert "not at rest" not in log


def test_deactivating_does_the_same_and_it_follows_again_afterwards(start: Callable[..., Moving]) -> None:
    moving = start()
    begun = moving.faults()
    assert moving.rig.change(Transition.TRANSITION_DEACTIVATE)
    wait_until(lambda: moving.rates()[-1] == 0.0)
    assert moving.faults() == begun
    assert moving.rig.change(Transition.TRANSITION_ACTIVATE)
    wait_until(lambda: moving.rates()[-1] == pytest.approx(VELOCITY))


def test_a_fallback_of_stop_makes_the_stop_signal_the_last_message(start: Callable[..., Moving]) -> None:
    moving = start(**{"fallback.deactivated": "stop"})
    moving.process.send_signal(signal.SIGINT)
    assert moving.process.wait(10) == 0
    wait_until(lambda: moving.stops()[-2:] == [False, True])
    assert moving.last_topic() == "command/stop"


def test_a_button_pressed_while_the_gate_brakes_stops_at_once(start: Callable[..., Moving]) -> None:
    moving = start(**{"axes.dx.acceleration": 0.08})  # 2.5 s to brake
    moving.process.send_signal(signal.SIGINT)
    wait_until(lambda: moving.rig.doing("hold", "deactivated"))
    assert moving.rates()[-1] > 0.1
    moving.rig.press(True)
    assert wait_until(lambda: moving.stops()[-1:] == [True]) < 0.5
    sent = len(moving.rates())
    assert moving.process.wait(10) == 0
    time.sleep(0.2)
    assert len(moving.rates()) <= sent + 1  # one that crossed it on the wire
    assert moving.stops()[-1]


def test_a_gate_that_never_commanded_sends_nothing(domain: int, tmp_path: Path) -> None:
    bundle = tiny.mono(tmp_path / "mono")
    with Processes(tmp_path, environment(domain)) as processes:
        process = processes.start("gate", "edgevlm_ros.command_gate", parameters={**PARAMETERS, "bundle": str(bundle)})
        wait_until(lambda: "configure: done" in processes.log("gate"), 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert "Traceback" not in processes.log("gate")


class Stuck:
    """A gate that never comes to rest."""

    columns, counts, at_rest = (), Counter[str](), False

    def __init__(self) -> None:
        self.number = 0

    def finish(self) -> None:
        pass

    def estop(self, pressed: bool) -> None:
        assert not pressed

    def command(self, now_ros_ns: int, now_steady_ns: int) -> GateCommand:
        self.number += 1
        return GateCommand(self.number, now_ros_ns, now_ros_ns, "hold", None, "deactivated", now_ros_ns)


class Wire:
    """A publisher, a log and two clocks."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def publish(self, message: Any, *_: object) -> None:
        self.sent.append(message)

    def prepare(self) -> None:
        pass

    def get_logger(self) -> Any:
        return logging.getLogger("gate")

    def now_ns(self) -> int:
        return time.time_ns()

    def steady_ns(self) -> int:
        return time.monotonic_ns()


class Released:
    """Buttons that are released."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def stopping(self, steady_ns: int) -> bool:
        return False


@pytest.mark.parametrize("paced", [False, True])
def test_a_robot_that_does_not_come_to_rest_in_time_gets_the_stop_signal(paced: bool) -> None:
    limits = GateLimits(
        axes=(AxisLimits(action="dx", state=None, position=None, velocity=0.1, acceleration=1.0, tracking=None),),
        command_period_s=0.01,
        command_valid_s=0.1,
        deadline_s=0.3,
        state_max_age_s=0.2,
        recover_after_s=0.0,
        future_s=0.1,
        reset_after_s=1.0,
    )
    node, stop = Wire(), Wire()
    work = ActiveGate(node, "0" * 64, Stuck(), limits, Released())  # type: ignore[arg-type]
    work.status, work.stop = Wire(), stop  # type: ignore[assignment]
    work.on_timer()
    thread = PeriodicThread(limits.command_period_s, work.on_timer)
    if paced:
        thread.start()
    begin = time.monotonic()
    work.finish(paced=paced)
    assert 0.3 < time.monotonic() - begin < 2.0  # braking, ten commands, and some
    published = len(work.status.sent)  # type: ignore[attr-defined]
    assert published > 1
    if paced:
        time.sleep(0.1)  # the thread runs until the inputs are closed
        thread.stop()
    work.on_timer()
    assert [message.data for message in stop.sent] == [False, True]
    assert len(work.status.sent) == published  # type: ignore[attr-defined]
