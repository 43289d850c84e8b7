"""command_relay: what is passed on, until when, and what a controller gets once the gate is gone."""

from __future__ import annotations

import itertools
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from geometry_msgs.msg import PoseStamped, Twist, TwistStamped, Vector3
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray
from support.gate_rig import judge_velocities
from support.moving_gate import ACCELERATION, VELOCITY, Moving
from support.policy_rig import PolicyRig, wait_until
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from edgevlm.errors import ContractError
from edgevlm_ros.command_kinds import ROWS, finite, outgoing
from edgevlm_ros.command_relay import Validity
from edgevlm_ros.processes import Processes, environment
from edgevlm_ros.qos import LATCHED, RELIABLE
from edgevlm_ros.relay_parameters import KINDS
from edgevlm_ros.stamps import to_ns, to_time

MS = 1_000_000
VALID_S = 0.15
SPACE = "relayed"


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(-300, 300)), min_size=1, max_size=40),
    st.integers(0, 400),
)
def test_no_command_is_in_force_longer_than_its_validity(steps: list[tuple[int, int]], later_ms: int) -> None:
    """Whatever the clock that stamps come from does: it is told by steady time since the last one was taken."""
    validity = Validity(valid_s=0.1, future_s=0.05)
    steady_ns, taken_ns = 0, None
    for wait_ms, skew_ms in steps:
        steady_ns += wait_ms * MS
        now_ns = 10**12 + steady_ns
        refused = validity.take(now_ns - skew_ms * MS, now_ns, steady_ns)
        assert refused is not None or -50 <= skew_ms < 100
        taken_ns = steady_ns if refused is None else taken_ns
    end_ns = steady_ns + later_ms * MS
    if validity.in_force(end_ns):
        assert taken_ns is not None
        assert end_ns - taken_ns < 100 * MS


def test_the_stop_signal_ends_what_is_in_force_and_lets_nothing_in() -> None:
    validity = Validity(0.1, 0.05)
    assert validity.take(0, 0, 0) is None
    validity.stop(True)
    assert not validity.in_force(1)
    assert validity.take(1, 1, 1) == "stopped"
    validity.stop(False)
    assert not validity.in_force(1)
    assert validity.take(1, 1, 1) is None


def trajectory(*positions: float) -> JointTrajectory:
    message = JointTrajectory(joint_names=["a", "b"], points=[JointTrajectoryPoint(positions=list(positions))])
    message.header.stamp = to_time(5)
    return message


def test_every_kind_that_has_parameters_has_a_row() -> None:
    assert sorted(ROWS) == sorted(KINDS)


def test_what_rests_goes_by_the_kind_of_message() -> None:
    moving = TwistStamped(twist=Twist(linear=Vector3(x=1.0), angular=Vector3(z=2.0)))
    assert ROWS["twist"].rest(moving, {}).twist == Twist()
    speeds = JointState(name=["a", "b"], velocity=[1.0, -1.0])
    assert list(ROWS["joint_velocity"].rest(speeds, {}).velocity) == [0.0, 0.0]
    held = ROWS["joint_trajectory"].rest(trajectory(1.0, 2.0), {"a": 0.5, "b": 0.6, "c": 9.0})
    assert list(held.points[0].positions) == [0.5, 0.6]
    # A joint that is not measured: all are held where they were commanded.
    assert list(ROWS["joint_trajectory"].rest(trajectory(1.0, 2.0), {"a": 0.5}).points[0].positions) == [1.0, 2.0]
    places = JointState(name=["a"], position=[1.0])
    assert list(ROWS["joint_position"].rest(places, {"a": 0.25}).position) == [0.25]
    pose = PoseStamped()
    assert ROWS["pose"].rest(pose, {}) is pose
    assert ROWS["gripper"].rest(places, {"a": 0.25}) is None


def test_numbers_that_are_none_are_detected_in_every_kind() -> None:
    nan = math.nan
    assert not finite("twist", TwistStamped(twist=Twist(angular=Vector3(y=nan))))
    assert not finite("joint_trajectory", trajectory(0.0, nan))
    assert not finite("joint_velocity", JointState(name=["a"], velocity=[math.inf]))
    broken = PoseStamped()
    broken.pose.orientation.w = nan
    assert not finite("pose", broken)
    assert finite("joint_trajectory", trajectory(0.0, 1.0))


def test_controllers_get_the_message_that_they_take() -> None:
    kind, make = outgoing("joint_velocity", ["b", "a"], True)
    assert kind is Float64MultiArray
    assert list(make(JointState(name=["a", "b"], velocity=[1.0, 2.0]), 0).data) == [2.0, 1.0]
    with pytest.raises(ContractError, match=r"joint_velocity.joints: expected names of .*'c'"):
        outgoing("joint_velocity", ["c"], True)[1](JointState(name=["a"], velocity=[1.0]), 0)
    kind, make = outgoing("twist", [], False)
    assert kind is Twist
    # One that ends in the past would be refused.
    assert to_ns(outgoing("joint_trajectory", [], True)[1](trajectory(0.0, 0.0), 9).header.stamp) == 0


class Controllers:
    """A gate's and the controllers' ends of a relay."""

    def __init__(self, domain: int, processes: Processes) -> None:
        self.rig = PolicyRig(domain, SPACE, "command_relay")
        self.got: dict[str, list[tuple[float, Any]]] = {"arm": [], "base": [], "wheels": [], "hand": []}
        self.sent_s: list[float] = []
        for topic, kind in (
            ("arm", JointTrajectory),
            ("base", TwistStamped),
            ("wheels", Float64MultiArray),
            ("hand", JointState),
        ):
            self.rig.node.create_subscription(
                kind, topic, lambda m, topic=topic: self.got[topic].append((time.monotonic(), m)), RELIABLE
            )
        self.senders = {
            name: self.rig.node.create_publisher(ROWS[name].message_type, f"command/{name}", RELIABLE)
            for name in ("joint_trajectory", "twist", "joint_velocity", "gripper")
        }
        self.stop = self.rig.node.create_publisher(Bool, "command/stop", LATCHED)
        self.state = self.rig.publisher(JointState, "joint_states")
        parameters = {
            "diagnostics_period_s": 0.1,
            "command_valid_s": VALID_S,
            "joint_trajectory.to": "arm",
            "twist.to": "base",
            "joint_velocity.to": "wheels",
            "joint_velocity.joints": ["b", "a"],
            "gripper.to": "hand",
        }
        self.process = processes.start("relay", "edgevlm_ros.command_relay", parameters=parameters, namespace=SPACE)
        wait_until(lambda: all(sender.get_subscription_count() for sender in self.senders.values()), 20)
        wait_until(lambda: self.rig.node.count_publishers("base") and self.rig.node.count_publishers("arm"), 20)

    def send(self, late_s: float = 0.0) -> None:
        stamp = to_time(self.rig.now_ns() - round(late_s * 1e9))
        arm, base = trajectory(1.0, 2.0), TwistStamped(twist=Twist(linear=Vector3(x=0.5)))
        wheels, hand = JointState(name=["a", "b"], velocity=[1.0, 2.0]), JointState(name=["grip"], position=[1.0])
        for name, message in zip(self.senders, (arm, base, wheels, hand), strict=True):
            message.header.stamp = stamp
            self.senders[name].publish(message)

    def drive(self, for_s: float) -> float:
        """Commands at 50 Hz, with a measured state; when the last one was sent."""
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            self.state.publish(JointState(name=["a", "b"], position=[0.75, 1.75]))
            self.send()
            self.sent_s.append(time.monotonic())
            time.sleep(0.02)
        return time.monotonic()

    def sent_until(self) -> float:
        """When the first gap began in which no command was valid, because this process was held up; else for ever."""
        gaps = itertools.pairwise(self.sent_s)
        return next((at for at, later in gaps if later - at > 0.8 * VALID_S), math.inf)

    def refused_late(self) -> int:
        """As of the second report from now on: the first may have been written before what came last."""
        self.rig.row("twist")
        return int(self.rig.row("twist")["refused_late"])

    def rested(self) -> bool:
        return bool(self.got["base"]) and self.got["base"][-1][1].twist.linear.x == 0.0


@pytest.fixture
def controllers(domain: int, tmp_path: Path) -> Iterator[Controllers]:
    with Processes(tmp_path, environment(domain)) as processes:
        controllers = Controllers(domain, processes)
        yield controllers
        controllers.rig.close()


def test_controllers_come_to_rest_within_the_validity_once_the_gate_is_silent(controllers: Controllers) -> None:
    last = controllers.drive(0.5)
    wait_until(controllers.rested)
    at = next(at for at, message in controllers.got["base"] if message.twist.linear.x == 0.0)
    assert 0.5 * VALID_S < at - min(last, controllers.sent_until()) < VALID_S + 0.1
    wait_until(lambda: list(controllers.got["wheels"][-1][1].data) == [0.0, 0.0])
    assert [2.0, 1.0] in [list(message.data) for _, message in controllers.got["wheels"]]
    wait_until(lambda: list(controllers.got["arm"][-1][1].points[0].positions) == [0.75, 1.75])
    assert all(list(message.position) == [1.0] for _, message in controllers.got["hand"])  # it goes on holding
    assert controllers.rig.row("twist")["level"] == "warn"
    hands = len(controllers.got["hand"])
    time.sleep(0.2)
    assert len(controllers.got["hand"]) == hands

    before = len(controllers.got["base"])
    wait_until(lambda: controllers.drive(0.05) > 0 and not controllers.rested())  # a gate that is back
    wait_until(controllers.rested)
    assert len(controllers.got["base"]) > before
    late = controllers.refused_late()
    controllers.send(late_s=1.0)
    wait_until(lambda: controllers.refused_late() > late)
    assert controllers.refused_late() == late + 1
    assert controllers.rested()


def test_the_stop_signal_and_the_end_of_the_relay_rest(controllers: Controllers) -> None:
    controllers.drive(0.2)
    controllers.stop.publish(Bool(data=True))
    wait_until(controllers.rested, VALID_S + 1.0)
    controllers.send()
    time.sleep(0.05)
    assert controllers.rested()
    controllers.stop.publish(Bool(data=False))
    wait_until(lambda: controllers.drive(0.05) > 0 and not controllers.rested())
    controllers.process.send_signal(signal.SIGTERM)
    assert controllers.process.wait(10) == 0
    wait_until(controllers.rested)


def test_a_relay_that_ends_passes_commands_on_for_so_long_and_then_rests(controllers: Controllers) -> None:
    controllers.drive(0.2)
    controllers.process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    while controllers.process.poll() is None:
        assert time.monotonic() - begin < 7.0
        controllers.drive(0.05)
    wait_until(controllers.rested)
    moving = [at - begin for at, message in controllers.got["base"] if message.twist.linear.x]
    assert min(4.0, controllers.sent_until() - begin) < moving[-1] + 0.05  # nobody brakes
    assert moving[-1] < 5.0  # ros2 launch waits 5 s
    sent = [at for at in controllers.sent_s if 0 <= at - begin < moving[-1]]
    passed_on = [at for at in moving if at >= 0]
    assert len(passed_on) > 0.8 * len(sent)  # a machine that holds the relay up costs it some


def test_the_stop_signal_ends_a_relay_that_is_ending(controllers: Controllers) -> None:
    controllers.drive(0.2)
    controllers.process.send_signal(signal.SIGINT)
    controllers.drive(0.5)
    assert not controllers.rested()
    controllers.stop.publish(Bool(data=True))
    begin = time.monotonic()
    assert controllers.process.wait(3) == 0
    assert time.monotonic() - begin < 2.0
    wait_until(controllers.rested)


def test_one_interrupt_for_gate_and_relay_brakes_the_robot(domain: int, tmp_path: Path) -> None:
    moving = Moving(domain, tmp_path)
    came: list[TwistStamped] = []
    moving.rig.node.create_subscription(TwistStamped, "base", came.append, RELIABLE)
    try:
        relay = moving.processes.start(
            "relay", "edgevlm_ros.command_relay", parameters={"command_valid_s": VALID_S, "twist.to": "base"}
        )
        wait_until(lambda: bool(came) and came[-1].twist.linear.x == pytest.approx(VELOCITY), 20)
        for process in (relay, moving.process):
            process.send_signal(signal.SIGINT)
        assert [process.wait(10) for process in (relay, moving.process)] == [0, 0]
        wait_until(lambda: came[-1].twist.linear.x == 0.0)
        assert len([message for message in came if 0 < message.twist.linear.x < VELOCITY * 0.99]) > 10
        assert judge_velocities(came[1:], VELOCITY, ACCELERATION, VALID_S) <= 1  # the first one has no past here
    finally:
        moving.close()


def test_a_relay_without_a_controller_is_refused(domain: int, tmp_path: Path) -> None:
    with Processes(tmp_path, environment(domain)) as processes:
        processes.start("relay", "edgevlm_ros.command_relay")
        wait_until(lambda: "configure refused: expected a controller's topic" in processes.log("relay"), 20)


@pytest.mark.parametrize(
    "relayed",
    [pytest.param(False, id="controller alone", marks=pytest.mark.slow), pytest.param(True, id="with the relay")],
)
def test_a_gate_that_is_killed_while_the_robot_moves(domain: int, tmp_path: Path, relayed: bool) -> None:
    """A controller that repeats its last command for ever: alone it moves the robot on, behind the relay it rests."""
    moving = Moving(domain, tmp_path)
    topic = "base" if relayed else "command/twist"
    last: list[float] = []
    moving.rig.node.create_subscription(TwistStamped, topic, lambda m: last.append(m.twist.linear.x), RELIABLE)
    try:
        if relayed:
            parameters = {"command_valid_s": VALID_S, "twist.to": "base"}
            moving.processes.start("relay", "edgevlm_ros.command_relay", parameters=parameters)
        wait_until(lambda: bool(last) and last[-1] == pytest.approx(VELOCITY), 20)
        moving.processes.kill("gate", signal.SIGKILL)
        if relayed:
            wait_until(lambda: last[-1] == 0.0)
        else:
            time.sleep(VALID_S + 0.15)
            assert last[-1] == pytest.approx(VELOCITY)
    finally:
        moving.close()
