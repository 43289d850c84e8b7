"""Commands as standard messages, one for each action group of a contract; the messages are in `command_kinds`.

The header's stamp is the one that the command was computed for, its frame the group's. A joint has the name that the
topic map gives the state field that measures it; where no limit says which one that is, as for a gripper, the field of
the column's own name; otherwise the column's name. Numbers are converted from the contract's units to SI, which a twist
and a pose always are; joints and grippers may have another one, the `command_unit` of that field in the topic map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from geometry_msgs.msg import PoseStamped, TwistStamped
from std_msgs.msg import Header

from edgevlm.errors import ContractError
from edgevlm.gate.columns import Column
from edgevlm.gate.gate import GateCommand
from edgevlm.manifest.contract import Contract
from edgevlm.rosmsg.topic_map import TopicMap
from edgevlm.units import axis_unit, rate_of, unit_factor, wire_unit
from edgevlm_ros.command_kinds import ROWS, CommandShape, Make, command_of
from edgevlm_ros.stamps import to_time


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
        measured = [column.name if column.state is None else column.state for column in columns[part]]
        named = [joints.get(key, "") or column.name for key, column in zip(measured, columns[part], strict=True)]
        command = command_of(group, columns[part])
        row = ROWS[command]
        make = row.fill(CommandShape(group, columns[part], named, period_s))
        factors = tuple(_factor(column, row.message_type, fields, topics) for column in columns[part])
        topic = names[i] if names else f"command/{command}"
        rows.append(Setpoint(topic, row.message_type, group.frame_id, part, factors, make))
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
