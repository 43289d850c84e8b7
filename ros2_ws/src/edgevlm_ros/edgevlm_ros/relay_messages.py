"""What a relay sends while no command is valid, for each kind of message: the rows of one table.

kind               at rest
twist              no velocity
joint_velocity     no velocity
joint_trajectory   the measured positions, taken once; without fresh ones the last command's
joint_position     the same
pose               the last pose again: nothing here measures one
gripper            nothing: whoever holds something goes on holding it
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from edgevlm.errors import ContractError
from edgevlm_ros.relay_parameters import CommandKind
from edgevlm_ros.stamps import to_time

Measured = Mapping[str, float]


@dataclass(frozen=True)
class Kind:
    """One kind of command.

    Attributes:
        values: its numbers.
        rest: what to send instead of a command that is over, from it and the measured joints; None: nothing.
    """

    message_type: type
    values: Callable[[Any], Iterable[float]]
    rest: Callable[[Any, Measured], Any]


def _six(twist: Any) -> list[float]:
    return [getattr(part, axis) for part in (twist.linear, twist.angular) for axis in "xyz"]


def _pose(message: PoseStamped) -> list[float]:
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


ROWS: Mapping[CommandKind, Kind] = {
    "twist": Kind(TwistStamped, lambda message: _six(message.twist), _no_twist),
    "pose": Kind(PoseStamped, _pose, lambda last, _: last),
    "joint_trajectory": Kind(
        JointTrajectory, lambda message: [x for point in message.points for x in point.positions], _hold_trajectory
    ),
    "joint_position": Kind(JointState, lambda message: message.position, _hold_joints),
    "joint_velocity": Kind(JointState, lambda message: message.velocity, _no_velocity),
    "gripper": Kind(JointState, lambda message: message.position, lambda last, measured: None),
}


def finite(kind: CommandKind, message: Any) -> bool:
    """Whether every number of a command is one."""
    return all(math.isfinite(value) for value in ROWS[kind].values(message))


def outgoing(kind: CommandKind, joints: Sequence[str], stamped: bool) -> tuple[type, Callable[[Any, int], Any]]:
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


def stamp(message: Any, now_ns: int) -> Any:
    """The message as of now."""
    message.header.stamp = to_time(now_ns)
    return message


def _unstamped(message: JointTrajectory, now_ns: int) -> JointTrajectory:
    copy = deepcopy(message)
    copy.header.stamp = to_time(0)
    return copy


def _array(kind: CommandKind, message: JointState, joints: Sequence[str]) -> Float64MultiArray:
    values = dict(zip(message.name, ROWS[kind].values(message), strict=False))
    if lost := [name for name in joints if name not in values]:
        raise ContractError(
            f"{kind}.joints: expected names of the command's joints {list(message.name)}, got {lost}; correct the "
            "parameter, or the joints of the topic map"
        )
    return Float64MultiArray(data=[float(values[name]) for name in joints])
