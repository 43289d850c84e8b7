"""The fields of what a policy publishes: a node fills messages with them, a replay writes them to a recording.

See ros2_ws/src/edgevlm_msgs. The schema version is not among them: each side has that of its own definitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.loop.worker import Acted, Outcome
from edgevlm.manifest.contract import Contract, Observation, Plan

Fields = dict[str, Any]


class Parts(Protocol):
    """What fields are made of: message objects of a node, or plain values."""

    def time(self, stamp_ns: int) -> Any:
        """A stamp; before 0 there are none, so those become 0."""

    def header(self, stamp_ns: int, frame_id: str = "") -> Any:
        """A header with a stamp."""

    def floats(self, values: NDArray[np.float32]) -> Any:
        """A float32[], flat, row by row."""


def chunk_fields(acted: Acted, contract: Contract, bundle_sha256: str, session: int, parts: Parts) -> Fields:
    """Of an ActionChunk: a chunk with what it was made from; `session` is the same for all chunks of one activation."""
    chunk, observation = acted.chunk, acted.observation
    return {
        "header": parts.header(chunk.observed_ns, contract.action.groups[0].frame_id),
        "session": session,
        "sequence": chunk.sequence,
        "bundle_sha256": bundle_sha256,
        "instruction": observation.instruction,
        "cameras": list(observation.frames),
        "frame_stamps": [parts.time(frame.stamp_ns) for frame in observation.frames.values()],
        "state_stamp": parts.time(observation.state.stamp_ns if observation.state else 0),
        "inference_started": parts.time(acted.times.started_ros_ns),
        "inference_ended": parts.time(acted.times.ended_ros_ns),
        "valid_until": parts.time(chunk.valid_until_ns),
        "step_s": float(chunk.step_s),
        "names": list(chunk.names),
        "units": list(chunk.units),
        "values": parts.floats(chunk.values),
    }


def plan_fields(plan: Plan, acted: Acted, parts: Parts) -> Fields:
    """Of a Plan, with the chunk's stamp and sequence."""
    return {
        "header": parts.header(acted.chunk.observed_ns, plan.frame_id),
        "sequence": acted.chunk.sequence,
        "instruction": acted.observation.instruction,
        "step": plan.step,
        "steps": list(plan.steps),
        "confidence": parts.floats(plan.confidence),
        "waypoint_stamps": [parts.time(stamp_ns) for stamp_ns in plan.stamps_ns],
        "names": list(plan.names),
        "units": list(plan.units),
        "waypoints": parts.floats(plan.waypoints),
    }


def path_points(plan: Plan) -> list[tuple[int, tuple[float, float, float]]] | None:
    """The stamp and the position of each waypoint; None where they are no positions x, y, z in metres."""
    if not {"x", "y", "z"} <= set(plan.names):
        return None
    x, y, z = (plan.names.index(name) for name in "xyz")
    if {plan.units[i] for i in (x, y, z)} != {"m"}:
        return None
    points = zip(plan.stamps_ns, plan.waypoints, strict=True)
    return [(at_ns, (float(point[x]), float(point[y]), float(point[z]))) for at_ns, point in points]


def stats_fields(outcome: Outcome, counts: Mapping[str, int], parts: Parts, *, timed: bool = True) -> Fields:
    """Of an InferenceStats; `counts` has the five uint64 fields by their names. Not `timed`: every duration is 0."""
    newest_ns, times = newest_frame_ns(outcome.observation), outcome.times
    stages: dict[str, int] = {}
    sequence, error = 0, ""
    if isinstance(outcome, Acted):
        stages = {name: ns for name, ns in outcome.stages_ns.items() if name != "step"}
        sequence = outcome.chunk.sequence
    else:
        error = f"{type(outcome.error).__name__}: {outcome.error}"
    return {
        "header": parts.header(newest_ns),
        "sequence": sequence,
        "error": error,
        "warm_up": times.warm_up,
        "step_ms": times.duration_ns / 1e6 if timed else 0.0,
        "latency_ms": (times.ended_ros_ns - newest_ns) / 1e6 if timed else 0.0,
        "stages": list(stages),
        "stage_ms": [ns / 1e6 if timed else 0.0 for ns in stages.values()],
        **counts,
    }


def newest_frame_ns(observation: Observation) -> int:
    """The stamp that a chunk of this observation counts from."""
    return max(frame.stamp_ns for frame in observation.frames.values())
