"""Commands as standard messages, one for each action group of a contract. Which message it is goes by what is sent.

    what is sent                        message                                        topic
    hand, velocities                    geometry_msgs/TwistStamped                     command/twist
    hand, positions                     geometry_msgs/PoseStamped                      command/pose
    joints, velocities                  sensor_msgs/JointState (velocity)              command/joint_velocity
    joints, positions                   trajectory_msgs/JointTrajectory (one point)    command/joint_trajectory
      the same, where the contract's topic_type says so: sensor_msgs/msg/JointState (position)
    gripper                             sensor_msgs/JointState (position)              command/gripper

The header's stamp is the one that the command was computed for, its frame the group's. A joint has the name that the
topic map gives the state field that measures it; where no limit says which one that is, as for a gripper, the field of
the column's own name; otherwise the column's name. Numbers are converted from the contract's units to SI, which a twist
and a pose always are; joints and grippers may have another one, the `command_unit` of that field in the topic map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Twist, TwistStamped, Vector3
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from edgevlm.errors import ContractError
from edgevlm.gate.columns import Column
from edgevlm.gate.gate import GateCommand
from edgevlm.gate.rotation import quaternion
from edgevlm.manifest.contract import SECOND_NS, ActionGroup, Contract
from edgevlm.rosmsg.topic_map import TopicMap
from edgevlm.units import axis_unit, is_angle, rate_of, same_kind, unit_factor, wire_unit
from edgevlm_ros.stamps import to_duration, to_time
from edgevlm_ros.topics import JOINT_STATE

Make = Callable[[Header, Sequence[float]], Any]

_AXES = {"x": 0, "y": 1, "z": 2, "roll": 0, "pitch": 1, "yaw": 2}


@dataclass(frozen=True)
class Setpoint:
    """The message of one action group."""

    topic: str
    message_type: type
    frame_id: str
    columns: slice
    factors: tuple[float, ...]  # from the columns' units to the message's
    make: Make

    def message(self, command: GateCommand) -> Any:
        """The message of a command that has values."""
        assert command.values is not None
        header = Header(stamp=to_time(command.stamp_ns), frame_id=self.frame_id)
        values = command.values[self.columns]
        return self.make(header, [value * factor for value, factor in zip(values, self.factors, strict=True)])


def setpoints(
    contract: Contract, columns: Sequence[Column], topics: TopicMap, names: Sequence[str], period_s: float
) -> tuple[Setpoint, ...]:
    """A setpoint for each action group; `names` are their topics, or empty.

    Raises:
        ContractError: a group cannot be told in a standard message, two groups would share a topic, or a
            `command_unit` of the map does not fit.
    """
    rows, start = [], 0
    groups = contract.action.groups
    if names and len(names) != len(groups):
        raise ContractError(
            f"command_topics: expected one for each of {len(groups)} action groups "
            f"({', '.join(group.kind for group in groups)}), got {list(names)}"
        )
    fields = contract.state.names if contract.state else ()
    joints: dict[int | str, str] = {i: topics.state[name].joint for i, name in enumerate(fields)}
    joints |= {name: topics.state[name].joint for name in fields}
    for i, group in enumerate(groups):
        part = slice(start, start + len(group.names))
        start = part.stop
        message_type, topic, make = _form(group, columns[part], joints, period_s)
        factors = tuple(_factor(column, message_type, fields, topics) for column in columns[part])
        rows.append(Setpoint(names[i] if names else topic, message_type, group.frame_id, part, factors, make))
    taken = [setpoint.topic for setpoint in rows]
    if len(set(taken)) != len(taken):
        raise ContractError(f"command topics {taken}: expected a topic of its own for each group; set command_topics")
    return tuple(rows)


def _factor(column: Column, message_type: type, fields: Sequence[str], topics: TopicMap) -> float:
    """What the column's number is multiplied by to be what the message carries: SI, or the map's `command_unit`.

    A gripper's field is the one of its own name: limits do not say what measures it.
    """
    field = fields[column.state] if column.state is not None else column.name
    unit = topics.state[field].command_unit if field in fields else ""
    if unit and message_type in (TwistStamped, PoseStamped):
        raise ContractError(
            f"topic map, state {field!r}: {message_type.__name__} is always in SI, got command_unit {unit!r} for "
            f"{column.name!r}; leave command_unit out, and convert in the driver if it takes another unit"
        )
    if column.sent == "orientation":
        return 1.0  # quaternions are made of it
    try:
        wire = rate_of(axis_unit(unit)) if unit and column.sent == "velocity" else unit
        return unit_factor(column.unit, wire or wire_unit(column.unit))
    except ValueError:
        raise ContractError(
            f"topic map, state {field!r}: expected a command_unit that {column.name!r} in {column.unit!r} can be "
            f"converted to, got {unit!r}; give one of its kind, or leave it out for {wire_unit(column.unit)!r}"
        ) from None


def _form(
    group: ActionGroup, columns: Sequence[Column], joints: Mapping[int | str, str], period_s: float
) -> tuple[type, str, Make]:
    sent = {column.sent for column in columns}
    measured = [column.name if column.state is None else column.state for column in columns]
    names = [joints.get(key, "") or column.name for key, column in zip(measured, columns, strict=True)]
    if group.kind == "gripper":
        return (
            JointState,
            "command/gripper",
            lambda header, values: JointState(header=header, name=names, position=list(values)),
        )
    if group.kind.startswith("joint"):
        return _joints(group, names, sent == {"velocity"}, period_s)
    if sent == {"velocity"}:
        return TwistStamped, "command/twist", _twist(columns)
    _check_lengths(columns[:3], "m")
    return PoseStamped, "command/pose", _pose(group)


def _joints(group: ActionGroup, names: list[str], velocity: bool, period_s: float) -> tuple[type, str, Make]:
    if velocity:
        return (
            JointState,
            "command/joint_velocity",
            lambda header, values: JointState(header=header, name=names, velocity=list(values)),
        )
    if group.topic_type == JOINT_STATE:
        return (
            JointState,
            "command/joint_position",
            lambda header, values: JointState(header=header, name=names, position=list(values)),
        )
    reached = to_duration(round(period_s * SECOND_NS))
    return (
        JointTrajectory,
        "command/joint_trajectory",
        lambda header, values: JointTrajectory(
            header=header,
            joint_names=names,
            points=[JointTrajectoryPoint(positions=list(values), time_from_start=reached)],
        ),
    )


def _twist(columns: Sequence[Column]) -> Make:
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


def _pose(group: ActionGroup) -> Make:
    form = group.rotation
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
