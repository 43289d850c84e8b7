"""edgevlm's values as edgevlm_msgs, and back. Only these functions know both sides."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from builtin_interfaces.msg import Time
from edgevlm_msgs.msg import ActionChunk as ChunkMessage
from edgevlm_msgs.msg import GateStatus, Heartbeat, InferenceStats
from edgevlm_msgs.msg import Plan as PlanMessage
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from nav_msgs.msg import Path
from numpy.typing import NDArray
from std_msgs.msg import Header

from edgevlm.errors import ContractError, ShapeError
from edgevlm.gate.columns import Column
from edgevlm.gate.gate import GateCommand
from edgevlm.loop.published import chunk_fields, path_points, plan_fields, stats_fields
from edgevlm.loop.worker import Acted, Outcome
from edgevlm.manifest.contract import ActionChunk, Contract, Plan
from edgevlm_ros.serialized_cache import STAMP
from edgevlm_ros.stamps import seconds, to_ns, to_time


def check_schema(message: ChunkMessage | PlanMessage | Heartbeat | GateStatus | InferenceStats) -> None:
    """Refuse a message of another schema.

    Raises:
        ContractError: sender and receiver were built from different versions of edgevlm_msgs.
    """
    if message.schema_version != message.SCHEMA_VERSION:
        raise ContractError(
            f"{type(message).__name__}: expected schema version {message.SCHEMA_VERSION}, got "
            f"{message.schema_version}; run the same version of edgevlm_ros on both sides"
        )


class MessageParts:
    """Parts of a message as message objects."""

    def time(self, stamp_ns: int) -> Time:
        return to_time(stamp_ns)

    def header(self, stamp_ns: int, frame_id: str = "") -> Header:
        return Header(stamp=to_time(stamp_ns), frame_id=frame_id)

    def floats(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(values, np.float32).ravel()


PARTS = MessageParts()


def chunk_message(acted: Acted, contract: Contract, bundle_sha256: str, session: int) -> ChunkMessage:
    """A chunk with what it was made from; `session` is the same for all chunks of one activation."""
    fields = chunk_fields(acted, contract, bundle_sha256, session, PARTS)
    return ChunkMessage(schema_version=ChunkMessage.SCHEMA_VERSION, **fields)


def read_chunk(message: ChunkMessage) -> ActionChunk:
    """The chunk of a message; the plan travels apart.

    Raises:
        ContractError: another schema version.
        ShapeError: not a whole number of rows.
    """
    check_schema(message)
    columns = len(message.names)
    values = np.array(message.values, np.float32)
    if not columns or not len(values) or len(values) % columns:
        raise ShapeError(
            f"ActionChunk {message.sequence}: expected whole rows of {columns} columns, got {len(values)} values"
        )
    return ActionChunk(
        values=values.reshape(-1, columns),
        names=tuple(message.names),
        units=tuple(message.units),
        step_s=message.step_s,
        observed_ns=to_ns(message.header.stamp),
        valid_until_ns=to_ns(message.valid_until),
        sequence=message.sequence,
    )


def plan_message(plan: Plan, acted: Acted) -> PlanMessage:
    """A plan with the chunk's stamp and sequence."""
    return PlanMessage(schema_version=PlanMessage.SCHEMA_VERSION, **plan_fields(plan, acted, PARTS))


def path_message(plan: Plan, stamp_ns: int) -> Path | None:
    """The waypoints as a path for display; None where they are no positions in metres."""
    points = path_points(plan)
    if points is None:
        return None
    poses = [
        PoseStamped(
            header=PARTS.header(at_ns, plan.frame_id),
            pose=Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(w=1.0)),
        )
        for at_ns, (x, y, z) in points
    ]
    return Path(header=PARTS.header(stamp_ns, plan.frame_id), poses=poses)


def stats_message(outcome: Outcome, counts: Mapping[str, int]) -> InferenceStats:
    """Where the time of one step went; `counts` has the five uint64 fields by their names."""
    return InferenceStats(schema_version=InferenceStats.SCHEMA_VERSION, **stats_fields(outcome, counts, PARTS))


def heartbeat_message(now_ros_ns: int, observing_ns: int | None, session: int) -> Heartbeat:
    """A sign of life."""
    return Heartbeat(
        schema_version=Heartbeat.SCHEMA_VERSION,
        session=session,
        stamp=to_time(now_ros_ns),
        observing=observing_ns is not None,
        observed=to_time(observing_ns or 0),
    )


def read_heartbeat(message: Heartbeat) -> int | None:
    """The stamp of the observation that the model was given, or None. Raises ContractError: another schema version."""
    check_schema(message)
    return to_ns(message.observed) if message.observing else None


STATUS_NUMBERS = (*STAMP, ("number", "Q"), ("valid_until.sec", "i"), ("valid_until.nanosec", "I"))


def status_numbers(command: GateCommand) -> tuple[int, ...]:
    """What changes in the status of a robot that rests: the values of `STATUS_NUMBERS`."""
    return (*seconds(command.stamp_ns), command.number, *seconds(command.valid_until_ns))


def status_says(command: GateCommand) -> tuple[object, ...]:
    """What the status says but for `STATUS_NUMBERS`: every other field of the command."""
    return (
        command.mode,
        command.values,
        command.cause,
        command.since_ns,
        command.limited,
        command.observed_ns,
        command.sequence,
        command.row,
    )


def status_message(command: GateCommand, columns: tuple[Column, ...]) -> GateStatus:
    """What the gate decided."""
    return GateStatus(
        schema_version=GateStatus.SCHEMA_VERSION,
        header=Header(stamp=to_time(command.stamp_ns)),
        number=command.number,
        mode=command.mode,
        cause=command.cause or "",
        since=to_time(command.since_ns or 0),
        valid_until=to_time(command.valid_until_ns),
        names=[column.name for column in columns],
        units=[column.unit for column in columns],
        values=list(command.values or ()),
        limited=list(command.limited),
        observed=to_time(command.observed_ns or 0),
        sequence=command.sequence or 0,
        row=-1 if command.row is None else command.row,
    )
