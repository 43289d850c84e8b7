"""The messages of commands, a row for each topic under command/: how one is filled, and what replaces it at rest.

Which row it is goes by what is sent (`commands` of the action kind in `edgevlm.manifest.action_kinds`):

    what is sent       command             message                              at rest
    hand, velocities   twist               geometry_msgs/TwistStamped           no velocity
    hand, positions    pose                geometry_msgs/PoseStamped            the last pose: nothing here measures one
    joints, velocities joint_velocity      sensor_msgs/JointState               no velocity
    joints, positions  joint_trajectory    trajectory_msgs/JointTrajectory      the measured positions, taken once;
                                           (one point)                          without fresh ones the last command's
      where the contract's topic_type is
      sensor_msgs/msg/JointState:
                       joint_position      sensor_msgs/JointState (position)    the same
    gripper            gripper             sensor_msgs/JointState (position)    nothing: it goes on holding
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Twist, TwistStamped, Vector3
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from edgevlm.errors import ContractError
from edgevlm.gate.columns import Column
from edgevlm.gate.rotation import quaternion
from edgevlm.manifest.action_kinds import Quantity
from edgevlm.manifest.contract import SECOND_NS, ActionGroup
from edgevlm.units import axis_unit, is_angle, same_kind
from edgevlm_ros.stamps import to_duration, to_time

Make = Callable[[Header, Sequence[float]], Any]
Measured = Mapping[str, float]

_AXES = {"x": 0, "y": 1, "z": 2, "roll": 0, "pitch": 1, "yaw": 2}


@dataclass(frozen=True)
class CommandShape:
    """What the message of one action group is filled by."""

    group: ActionGroup
    columns: Sequence[Column]
    joints: list[str]  # a name for each column
    period_s: float


@dataclass(frozen=True)
class CommandRow:
    """One kind of command.

    Attributes:
        fill: what makes a message of a header and the values of a group. Raises ContractError: the group does not fit.
        values: its numbers.
        rest: what to send instead of a command that is over, from it and the measured joints; None: nothing.
    """

    message_type: type
    fill: Callable[[CommandShape], Make]
    values: Callable[[Any], Iterable[float]]
    rest: Callable[[Any, Measured], Any]


def _trajectory(shape: CommandShape) -> Make:
    reached = to_duration(round(shape.period_s * SECOND_NS))
    return lambda header, values: JointTrajectory(
        header=header,
        joint_names=shape.joints,
        points=[JointTrajectoryPoint(positions=list(values), time_from_start=reached)],
    )


def _joint_positions(shape: CommandShape) -> Make:
    return lambda header, values: JointState(header=header, name=shape.joints, position=list(values))


def _joint_velocities(shape: CommandShape) -> Make:
    return lambda header, values: JointState(header=header, name=shape.joints, velocity=list(values))


def _twist(shape: CommandShape) -> Make:
    columns = shape.columns
    linear = [i for i, column in enumerate(columns) if not is_angle(column.unit)]
    angular = [i for i, column in enumerate(columns) if is_angle(column.unit)]
    _check_lengths([columns[i] for i in linear], "m/s")
    places = {**_places(columns, linear, 0), **_places(columns, angular, 3)}

    def make(header: Header, values: Sequence[float]) -> TwistStamped:
        six = [0.0] * 6
        for i, place in places.items():
            six[place] = values[i]
        return TwistStamped(
            header=header,
            twist=Twist(linear=Vector3(x=six[0], y=six[1], z=six[2]), angular=Vector3(x=six[3], y=six[4], z=six[5])),
        )

    return make


def _check_lengths(columns: Sequence[Column], unit: str) -> None:
    """Raises ContractError where a column is no length (or rate of one); a number without a unit may be one."""
    for column in columns:
        if axis_unit(column.unit) != "1" and not same_kind(column.unit, unit):
            raise ContractError(
                f"command: expected {column.name!r} in a unit such as {unit!r}, got {column.unit!r}, which neither a "
                "pose nor a twist has; correct the unit in the contract and export again"
            )


def _places(columns: Sequence[Column], part: Sequence[int], first: int) -> dict[int, int]:
    """Where each of three goes: in order; fewer go by their names."""
    if len(part) == 3:
        return {i: first + at for at, i in enumerate(part)}
    places: dict[int, int] = {}
    for i in part:
        at = next((at for end, at in _AXES.items() if columns[i].name.endswith(end)), None)
        if at is None or first + at in places.values():
            raise ContractError(
                f"command: cannot tell which axis {columns[i].name!r} of {[columns[j].name for j in part]} is; "
                "give three columns, in the order x, y, z, or names that end in x, y or z"
            )
        places[i] = first + at
    return places


def _pose(shape: CommandShape) -> Make:
    _check_lengths(shape.columns[:3], "m")
    group, form = shape.group, shape.group.rotation
    if len(group.names) - len(group.turning) != 3:
        raise ContractError(
            f"command: a {group.kind} of {group.names} is no pose; give the positions x, y, z and, of an ee_pose, an "
            "orientation"
        )

    def make(header: Header, values: Sequence[float]) -> PoseStamped:
        x, y, z = values[:3]
        # Without an orientation in the contract the quaternion is left at zero, which no controller takes for one.
        q = quaternion(form, values[3:]) if group.turning and form != "none" else (0.0, 0.0, 0.0, 0.0)
        facing = Quaternion(x=q[0], y=q[1], z=q[2], w=q[3])
        return PoseStamped(header=header, pose=Pose(position=Point(x=x, y=y, z=z), orientation=facing))

    return make


def _six(twist: Any) -> list[float]:
    return [getattr(part, axis) for part in (twist.linear, twist.angular) for axis in "xyz"]


def _pose_values(message: PoseStamped) -> list[float]:
    place, turn = message.pose.position, message.pose.orientation
    return [place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w]


def _no_twist(last: TwistStamped, _: Measured) -> TwistStamped:
    return TwistStamped(header=last.header)


def _no_velocity(last: JointState, _: Measured) -> JointState:
    return JointState(header=last.header, name=last.name, velocity=[0.0] * len(last.name))


def _held(names: Sequence[str], commanded: Sequence[float], measured: Measured) -> list[float]:
    """Measured where every joint is: a mixture of both would be a position that nobody meant."""
    if all(name in measured for name in names):
        return [measured[name] for name in names]
    return [float(value) for value in commanded]


def _hold_joints(last: JointState, measured: Measured) -> JointState:
    return JointState(header=last.header, name=last.name, position=_held(last.name, last.position, measured))


def _hold_trajectory(last: JointTrajectory, measured: Measured) -> JointTrajectory:
    held = deepcopy(last)
    for point in held.points:
        point.positions = _held(last.joint_names, point.positions, measured)
    return held


ROWS: Mapping[str, CommandRow] = {
    "joint_trajectory": CommandRow(
        JointTrajectory,
        _trajectory,
        lambda message: [x for point in message.points for x in point.positions],
        _hold_trajectory,
    ),
    "joint_position": CommandRow(JointState, _joint_positions, lambda message: message.position, _hold_joints),
    "joint_velocity": CommandRow(JointState, _joint_velocities, lambda message: message.velocity, _no_velocity),
    "pose": CommandRow(PoseStamped, _pose, _pose_values, lambda last, _: last),
    "twist": CommandRow(TwistStamped, _twist, lambda message: _six(message.twist), _no_twist),
    "gripper": CommandRow(JointState, _joint_positions, lambda message: message.position, lambda last, measured: None),
}


def command_of(group: ActionGroup, columns: Sequence[Column]) -> str:
    """The row of an action group: the usual one for what is sent, or the one whose message is the `topic_type`."""
    sent = {column.sent for column in columns}
    quantity: Quantity = "velocity" if sent == {"velocity"} else "value" if sent == {"value"} else "position"
    commands = group.row.commands[quantity]
    return next((each for each in commands if _type_name(ROWS[each].message_type) == group.topic_type), commands[0])


def _type_name(message_type: type) -> str:
    return f"{message_type.__module__.partition('.')[0]}/msg/{message_type.__name__}"


def finite(kind: str, message: Any) -> bool:
    """Whether every number of a command is one."""
    return all(math.isfinite(value) for value in ROWS[kind].values(message))


def outgoing(kind: str, joints: Sequence[str], stamped: bool) -> tuple[type, Callable[[Any, int], Any]]:
    """The type that a controller gets, and what makes it of a command and the time now.

    A trajectory leaves without a stamp: joint_trajectory_controller refuses one that ends in the past, and takes one
    without a stamp as beginning now.
    """
    if kind == "joint_trajectory":
        return JointTrajectory, _unstamped
    if kind == "twist" and not stamped:
        return Twist, lambda message, now_ns: message.twist
    if joints:
        return Float64MultiArray, lambda message, now_ns: _array(kind, message, joints)
    return ROWS[kind].message_type, lambda message, now_ns: message


def _unstamped(message: JointTrajectory, now_ns: int) -> JointTrajectory:
    copy = deepcopy(message)
    copy.header.stamp = to_time(0)
    return copy


def _array(kind: str, message: JointState, joints: Sequence[str]) -> Float64MultiArray:
    values = dict(zip(message.name, ROWS[kind].values(message), strict=False))
    if lost := [name for name in joints if name not in values]:
        raise ContractError(
            f"{kind}.joints: expected names of the command's joints {list(message.name)}, got {lost}; correct the "
            "parameter, or the joints of the topic map"
        )
    return Float64MultiArray(data=[float(values[name]) for name in joints])
