"""The gate's commands as standard messages, its parameters as limits, and the state put together from topics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from geometry_msgs.msg import PoseStamped, TwistStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from support import gate_judge, tiny
from trajectory_msgs.msg import JointTrajectory

from edgevlm.errors import ContractError, LogError
from edgevlm.gate.columns import columns
from edgevlm.gate.gate import GateCommand
from edgevlm.manifest.contract import ActionGroup, Contract, StateField, StateSpec
from edgevlm.rosmsg.topic_map import StateSource, TopicMap, default_topics
from edgevlm_ros.command_messages import Setpoint, setpoints
from edgevlm_ros.gate_parameters import ITEMS, check, contract_items, gate_limits
from edgevlm_ros.stamps import to_ns
from edgevlm_ros.topics import (
    StateAssembler,
    live_topics,
    message_class,
    message_stamp_ns,
    relative,
    state_types,
    wrong_types,
)

ANGLE = math.radians(90)


def group(kind: Any, names: tuple[str, ...], unit: str, **more: Any) -> ActionGroup:
    count = len(names)
    units = more.pop("units", (unit,) * count)
    bounds = {"lower": (-9.0,) * count, "upper": (9.0,) * count}
    return ActionGroup(
        kind=kind, names=names, units=units, scale=(1.0,) * count, offset=(0.0,) * count, **bounds, **more
    )


def robot(*groups: ActionGroup) -> Contract:
    """A state field for each column, by its name."""
    return gate_judge.contract(groups, tuple(StateField(name=name, unit="1") for one in groups for name in one.names))


def values_of(contract: Contract, **more: Any) -> dict[str, Any]:
    """Every parameter with its default, limits filled in: names of state fields are those of the columns."""
    values: dict[str, Any] = {item.name: item.default for item in (*ITEMS, *contract_items(contract))}
    filled = {"velocity": 1.0, "acceleration": 2.0, "position": [-3.0, 3.0], "tracking": 0.5}
    for name in values:
        part, _, key = name.rpartition(".")
        if part.startswith("axes.") and key in filled:
            values[name] = filled[key]
        elif part.startswith("axes.") and key == "state":
            values[name] = part.removeprefix("axes.")
        elif part.startswith("orientations."):
            values[name] = filled.get(key, ["qx", "qy", "qz", "qw"])
    return {**values, **more}


def of_contract(contract: Contract, names: tuple[str, ...] = ()) -> tuple[Setpoint, ...]:
    limits = gate_limits(values_of(contract), contract)
    return setpoints(contract, columns(contract, limits), default_topics(contract), names, 0.02)


def message(contract: Contract, *values: float) -> Any:
    (setpoint,) = of_contract(contract)
    sent = setpoint.message(GateCommand(1, 5_000_000_007, 6_000_000_000, "follow", values))
    assert to_ns(sent.header.stamp) == 5_000_000_007
    assert type(sent) is setpoint.message_type
    assert sent.header.frame_id == contract.action.groups[0].frame_id
    return sent


def test_a_hand_that_moves_by_rate_is_a_twist() -> None:
    six = group("ee_delta", ("a", "b", "c", "d", "e", "f"), "", units=("m",) * 3 + ("rad",) * 3, frame_id="base",
                relative_to="previous", rotation="rotation_vector")  # fmt: skip
    twist = message(robot(six), 1.0, 2.0, 3.0, 4.0, 5.0, 6.0).twist
    assert (twist.linear.x, twist.linear.y, twist.linear.z) == (1.0, 2.0, 3.0)
    assert (twist.angular.x, twist.angular.y, twist.angular.z) == (4.0, 5.0, 6.0)


def test_fewer_columns_of_a_twist_go_by_their_names() -> None:
    base = group("twist", ("forward_x", "turn_z"), "", units=("m/s", "rad/s"))
    sent = message(robot(base), 0.25, -0.5)
    assert isinstance(sent, TwistStamped)
    assert (sent.twist.linear.x, sent.twist.angular.z) == (0.25, -0.5)
    assert (sent.twist.linear.z, sent.twist.angular.x) == (0.0, 0.0)
    with pytest.raises(ContractError, match="which axis 'spin'"):
        of_contract(robot(group("twist", ("spin",), "rad/s")))


def test_joints_that_move_by_rate_are_velocities() -> None:
    sent = message(robot(group("joint_velocity", ("one", "two"), "rad/s")), 0.5, -0.5)
    assert isinstance(sent, JointState)
    assert (list(sent.name), list(sent.velocity), len(sent.position)) == (["one", "two"], [0.5, -0.5], 0)


def test_a_gripper_has_the_name_that_the_map_gives_its_field() -> None:
    """No limit says which field measures it: the one of its own name does."""
    contract = robot(group("joint_position", ("arm",), "rad"), group("gripper", ("grip",), "1"))
    limits = gate_limits(values_of(contract), contract)
    topics = default_topics(contract)
    renamed = {
        name: source.model_copy(update={"joint": f"robot_{name}_joint"}) for name, source in topics.state.items()
    }
    topics = topics.model_copy(update={"state": renamed})
    arm, grip = setpoints(contract, columns(contract, limits), topics, (), 0.02)
    command = GateCommand(1, 5, 6, "follow", (0.1, 1.0))
    assert list(arm.message(command).joint_names) == ["robot_arm_joint"]
    assert list(grip.message(command).name) == ["robot_grip_joint"]


def test_joint_positions_are_a_trajectory_of_one_point_or_a_joint_state() -> None:
    sent = message(robot(group("joint_position", ("one", "two"), "rad")), 0.5, -0.5)
    assert isinstance(sent, JointTrajectory)
    (point,) = sent.points
    assert (list(sent.joint_names), list(point.positions)) == (["one", "two"], [0.5, -0.5])
    assert to_ns(point.time_from_start) == 20_000_000
    sent = message(robot(group("joint_position", ("one",), "rad", topic_type="sensor_msgs/msg/JointState")), 0.5)
    assert (list(sent.name), list(sent.position), len(sent.velocity)) == (["one"], [0.5], 0)


def test_a_hand_that_is_sent_somewhere_is_a_pose() -> None:
    turned = group("ee_pose", ("x", "y", "z", "qx", "qy", "qz", "qw"), "m", rotation="quaternion_xyzw", frame_id="base")
    pose = message(robot(turned), 0.1, 0.2, 0.3, 0.0, 0.0, math.sin(ANGLE / 2), math.cos(ANGLE / 2))
    assert isinstance(pose, PoseStamped)
    assert (pose.pose.position.x, pose.pose.position.y, pose.pose.position.z) == (0.1, 0.2, 0.3)
    assert (pose.pose.orientation.z, pose.pose.orientation.w) == pytest.approx((math.sin(ANGLE / 2),) * 2)
    plain = message(robot(group("ee_pose", ("x", "y", "z"), "m")), 0.1, 0.2, 0.3)
    assert plain.pose.orientation.w == 0.0
    with pytest.raises(ContractError, match="is no pose"):
        of_contract(robot(group("ee_pose", ("x", "y"), "m")))


def sent_with(contract: Contract, value: float, **source: str) -> Any:
    """The one group's message for a command of `value` in each column, under a map whose every source is so."""
    topics = default_topics(contract)
    state = {
        name: StateSource.model_validate({**one.model_dump(exclude_defaults=True), **source})
        for name, one in topics.state.items()
    }
    limits = gate_limits(values_of(contract), contract)
    topics = topics.model_copy(update={"state": state})
    (setpoint,) = setpoints(contract, columns(contract, limits), topics, (), 0.02)
    command = GateCommand(1, 5, 6, "follow", (value,) * len(contract.action.names))
    return setpoint.message(command)


@pytest.mark.parametrize("measured", ["", "m", "mm", "cm"])
def test_what_unit_the_state_comes_in_scales_no_command_of_a_hand(measured: str) -> None:
    source = {"unit": measured} if measured else {}
    moved = group("ee_delta", ("x", "y", "z"), "m", relative_to="previous")
    # A field in the axis's own unit is what measures it here: the case that scaled the command.
    contract = gate_judge.contract((moved,), tuple(StateField(name=name, unit="m") for name in moved.names))
    assert sent_with(contract, 0.1, **source).twist.linear.x == pytest.approx(0.1)
    placed = group("ee_pose", ("x", "y", "z"), "m")
    contract = gate_judge.contract((placed,), tuple(StateField(name=name, unit="m") for name in placed.names))
    assert sent_with(contract, 0.1, **source).pose.position.x == pytest.approx(0.1)


def test_a_contract_in_millimetres_is_a_twist_in_metres() -> None:
    moved = group("ee_delta", ("x", "y", "z"), "mm", relative_to="previous")
    contract = gate_judge.contract((moved,), tuple(StateField(name=name, unit="mm") for name in moved.names))
    assert sent_with(contract, 100.0, unit="mm").twist.linear.x == pytest.approx(0.1)
    with pytest.raises(ContractError, match="TwistStamped is always in SI, got command_unit 'mm'"):
        sent_with(contract, 100.0, unit="mm", command_unit="mm")


@pytest.mark.parametrize("measured", ["rad", "deg"])
@pytest.mark.parametrize(("commanded", "expected"), [("", 1.0), ("rad", 1.0), ("deg", math.degrees(1.0))])
def test_joints_are_commanded_in_si_or_their_command_unit_whatever_measures_them(
    measured: str, commanded: str, expected: float
) -> None:
    source = {"unit": measured, "command_unit": commanded}
    contract = robot(group("joint_position", ("a", "b"), "rad"))
    assert list(sent_with(contract, 1.0, **source).points[0].positions) == pytest.approx([expected] * 2)
    contract = robot(group("joint_velocity", ("a", "b"), "rad/s"))
    assert list(sent_with(contract, 1.0, **source).velocity) == pytest.approx([expected] * 2)


def test_a_command_unit_of_another_kind_or_none_is_refused() -> None:
    contract = robot(group("joint_position", ("a",), "rad"))
    for unit in ("mm", "deg/s", "1"):
        with pytest.raises(ContractError, match=rf"'a'.*in 'rad'.*got '{unit}'.*leave it out for 'rad'"):
            sent_with(contract, 1.0, command_unit=unit)
    with pytest.raises(ValueError, match="expected one of"):
        StateSource(topic="/j", joint="a", command_unit="furlong")


def test_a_gripper_has_the_command_unit_of_its_own_field() -> None:
    contract = robot(group("gripper", ("grip",), "1"))
    assert list(sent_with(contract, 0.5, unit="%").position) == [0.5]
    assert list(sent_with(contract, 0.5, command_unit="%").position) == pytest.approx([50.0])


def test_each_group_has_a_topic_of_its_own() -> None:
    both = robot(group("joint_velocity", ("left",), "rad/s"), group("joint_velocity", ("right",), "rad/s"))
    with pytest.raises(ContractError, match="set command_topics"):
        of_contract(both)
    assert [setpoint.topic for setpoint in of_contract(both, ("l", "r"))] == ["l", "r"]
    with pytest.raises(ContractError, match="expected one for each of 2 action groups"):
        of_contract(both, ("l",))


def test_defaults_make_limits_that_fit_the_contract() -> None:
    contract = tiny.mono_contract()
    limits = gate_limits(values_of(contract, **{"axes.dx.state": "x", "axes.dy.state": "y"}), contract)
    assert (limits.command_period_s, limits.command_valid_s) == (0.05, pytest.approx(0.15))
    assert limits.latched == ("estop",)
    assert [axis.action for axis in limits.axes] == ["dx", "dy"]


def test_the_time_of_limits_is_the_node_s_and_a_joint_without_ends_the_parameter_s() -> None:
    contract = robot(group("joint_position", ("j",), "rad"))
    endless = values_of(contract, **{"axes.j.continuous": True, "axes.j.position": []})
    limits = gate_limits(endless, contract, "simulated")
    assert (limits.time, limits.axes[0].continuous) == ("simulated", True)
    assert gate_limits(endless, contract).time == "system"
    with pytest.raises(ContractError, match=r"axes\.j\..*no range"):
        gate_limits({**endless, "axes.j.position": [-1.0, 1.0]}, contract)


def test_a_value_is_refused_while_others_are_still_missing() -> None:
    contract = tiny.mono_contract()
    values = {item.name: item.default for item in (*ITEMS, *contract_items(contract))}
    check(values, contract)
    with pytest.raises(ContractError, match=r"set the parameters axes\.dx\.velocity, axes\.dx\.acceleration, axes\.dy"):
        gate_limits(values, contract)
    bad = {"axes.dx.velocity": 1.0, "axes.dx.acceleration": 1.0, "axes.dx.tracking": 1.0}
    with pytest.raises(ContractError, match=r"axes\.dx\..*need the state field"):
        check({**values, **bad}, contract)


def stamped(kind: Any, stamp_s: int, **fields: Any) -> Any:
    sent = kind(**fields)
    sent.header.stamp.sec = stamp_s
    return sent


def test_a_state_of_two_topics_is_as_old_as_its_oldest_part() -> None:
    spec = StateSpec(fields=(StateField(name="x", unit="m"), StateField(name="jaw", unit="rad")))
    topics = TopicMap(
        cameras={},
        state={"x": StateSource(topic="pose", path="pose.position.x"),
               "jaw": StateSource(topic="axes", joint="j", unit="deg")},
        instruction="say",
    )  # fmt: skip
    state = StateAssembler(spec, topics)
    pose = stamped(PoseStamped, 3)
    pose.pose.position.x = 0.5
    assert state.feed("pose", pose, message_stamp_ns(pose, 0)) is None
    assert state.missing == ("jaw",)
    joints = stamped(JointState, 2, name=["other", "j"], position=[7.0, 180.0])
    sample = state.feed("axes", joints, message_stamp_ns(joints, 0))
    assert sample is not None
    assert (sample.value.dtype, sample.stamp_ns) == (np.float32, 2_000_000_000)
    assert sample.value == pytest.approx([0.5, math.pi])
    for second, oldest in ((5, 3), (6, 3)):
        joints.header.stamp.sec = second
        sample = state.feed("axes", joints, message_stamp_ns(joints, 0))
        assert sample is not None
        assert sample.stamp_ns == oldest * 1_000_000_000
    joints.position = [7.0, math.nan]
    sample = state.feed("axes", joints, 9)
    assert sample is not None
    assert math.isnan(sample.value[1])
    assert state.feed("axes", stamped(JointState, 9, name=["other"], position=[1.0]), 9) is None
    state.reset()
    assert state.missing == ("x", "jaw")


def test_a_message_without_header_takes_the_clock_and_a_wrong_path_is_named() -> None:
    array = Float64MultiArray(data=[1.0, 2.5])
    assert message_stamp_ns(array, 42) == 42
    assert message_stamp_ns(PoseStamped(), 42) == 42
    spec = StateSpec(fields=(StateField(name="x", unit="m"),))

    def state(path: str) -> StateAssembler:
        source = StateSource(topic="array", path=path)
        return StateAssembler(spec, TopicMap(cameras={}, state={"x": source}, instruction="say"))

    sample = state("data[1]").feed("array", array, 42)
    assert sample is not None
    assert sample.value == [2.5]
    assert state("data[2]").feed("array", array, 42) is None
    with pytest.raises(LogError, match=r"topic array: path 'dada\[1\]' ends at 'dada'; there are \['.*data"):
        state("dada[1]").feed("array", array, 42)


def test_topics_are_relative_and_their_types_are_checked(tmp_path: Any) -> None:
    contract = tiny.mono_contract()
    assert {source.topic for source in live_topics(contract, "").state.values()} == {"joint_states"}
    assert live_topics(contract, "", found=["front/image_raw"]).cameras == {"front": "front/image_raw"}
    path = tmp_path / "map.yaml"
    path.write_text(
        "cameras: {front: /eye}\ninstruction: /say\nstate:\n  x: {topic: /pose, path: pose.position.x}\n"
        "  y: {topic: /pose, path: pose.position.y}\n  grip: {topic: /axes, joint: grip}\n"
    )
    topics = live_topics(contract, str(path))
    assert (topics.cameras["front"], topics.instruction) == ("eye", "say")
    types = state_types(topics)
    assert types == {"pose": "", "axes": "sensor_msgs/msg/JointState"}
    assert wrong_types(types, {"pose": {"a/msg/A"}, "axes": {"sensor_msgs/msg/JointState"}}) == []
    missing, wrong = wrong_types(types, {"axes": {"std_msgs/msg/String"}})
    assert "pose: nobody publishes it" in missing
    assert "axes: expected sensor_msgs/msg/JointState, got std_msgs/msg/String" in wrong
    assert relative("/a/b") == "a/b"


def test_a_message_class_is_resolved_by_its_type() -> None:
    assert message_class("geometry_msgs/msg/PoseStamped") is PoseStamped
    for name in ("nowhere_msgs/msg/Thing", "std_msgs/msg/Nothing", "std_msgs"):
        with pytest.raises(ContractError, match="install the package that defines it"):
            message_class(name)


@pytest.mark.parametrize(("wire", "position", "velocity"), [("deg", 90.0, 45.0), ("rad", math.pi / 2, math.pi / 4)])
def test_units_are_converted_at_the_wire_both_ways(wire: str, position: float, velocity: float) -> None:
    groups = (group("joint_position", ("j",), "deg"), group("joint_velocity", ("k",), "rad/s"))
    fields = (StateField(name="j", unit="deg"), StateField(name="k", unit="rad"))
    contract = gate_judge.contract(groups, fields)
    sources = {name: StateSource(topic="axes", joint=f"robot_{name}", unit=wire, command_unit=wire) for name in "jk"}
    topics = TopicMap(cameras={camera.name: "c" for camera in contract.cameras}, state=sources, instruction="say")
    topics.check(contract)
    assert contract.state is not None
    joints = JointState(name=["robot_k", "robot_j"], position=[position, position])
    state = StateAssembler(contract.state, topics).feed("axes", joints, 1)
    assert state is not None
    assert state.value == pytest.approx([90.0, math.pi / 2])  # in
    limits = gate_limits(values_of(contract, **{"axes.j.state": "j", "axes.k.state": "k"}), contract)
    sent = setpoints(contract, columns(contract, limits), topics, (), 0.02)
    command = GateCommand(1, 1, 2, "follow", (90.0, math.pi / 4))
    trajectory, rates = (setpoint.message(command) for setpoint in sent)
    assert list(trajectory.points[0].positions) == pytest.approx([position])  # and out
    assert list(rates.velocity) == pytest.approx([velocity])
    assert (list(trajectory.joint_names), list(rates.name)) == (["robot_j"], ["robot_k"])


def test_a_hand_in_millimetres_is_sent_in_metres_and_degrees_turn_as_radians() -> None:
    pose = message(robot(group("ee_pose", ("x", "y", "z"), "mm")), 1000.0, 250.0, 0.0)
    assert (pose.pose.position.x, pose.pose.position.y) == (1.0, 0.25)
    turn = message(robot(group("twist", ("go_x", "turn_z"), "", units=("mm/s", "deg/s"))), 500.0, 180.0)
    assert (turn.twist.linear.x, turn.twist.angular.z) == pytest.approx((0.5, math.pi))
    with pytest.raises(ContractError, match=r"expected 'x' in a unit such as 'm', got 'N'"):
        of_contract(robot(group("ee_pose", ("x", "y", "z"), "N")))


@pytest.mark.parametrize(
    ("kind", "path", "unit", "words"),
    [
        (TwistStamped, "twist.linear.x", "m", "got m/s"),
        (TwistStamped, "twist.angular.z", "m/s", "got rad/s"),
        (PoseStamped, "pose.position.x", "rad", "got m"),
        (PoseStamped, "pose.orientation.w", "rad", "got 1"),
        (JointState, "velocity[name=j]", "rad", "got rad/s or m/s"),
        (JointState, "effort[name=j]", "A", "got Nm or N"),
        (TwistStamped, "twist.linear.x", "m/s", ""),
        (PoseStamped, "pose.position.x", "m", ""),
        (PoseStamped, "pose.orientation.w", "1", ""),
        (JointState, "position[name=j]", "m", ""),
        (JointState, "velocity[name=j]", "rad/s", ""),
    ],
)
def test_a_place_that_carries_something_else_by_convention_is_refused(
    kind: Any, path: str, unit: str, words: str
) -> None:
    spec = StateSpec(fields=(StateField(name="a", unit=unit),))
    topics = TopicMap(cameras={}, state={"a": StateSource(topic="t", path=path)}, instruction="say")
    message = JointState(name=["j"], position=[1.0], velocity=[1.0], effort=[1.0]) if kind is JointState else kind()
    state = StateAssembler(spec, topics)
    if not words:
        assert state.feed("t", message, 1) is not None
        return
    for _ in range(2):  # and again: nothing of it comes in later
        with pytest.raises(LogError, match=words):
            state.feed("t", message, 1)
