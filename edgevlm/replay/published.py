"""What a policy publishes, as messages for a recording: the runtime writes them without ROS.

The fields are those that the nodes fill in, see `edgevlm.loop.published`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.data import LogWriter
from edgevlm.loop.published import chunk_fields, newest_frame_ns, path_points, plan_fields, stats_fields
from edgevlm.loop.worker import Acted, Outcome
from edgevlm.manifest.contract import SECOND_NS, Contract, Plan
from edgevlm.rosmsg.own_schemas import ACTION_CHUNK, INFERENCE_STATS, PLAN, SCHEMA_VERSIONS
from edgevlm.rosmsg.schemas import JOINT_STATE, PATH

Message = dict[str, Any]
SESSION = 0  # there is only one


class PlainParts:
    """Parts of a message as dictionaries and lists."""

    def time(self, stamp_ns: int) -> Message:
        sec, nanosec = divmod(max(0, int(stamp_ns)), SECOND_NS)
        return {"sec": sec, "nanosec": nanosec}

    def header(self, stamp_ns: int, frame_id: str = "") -> Message:
        return {"stamp": self.time(stamp_ns), "frame_id": frame_id}

    def floats(self, values: NDArray[np.float32]) -> list[float]:
        flat: list[float] = np.ascontiguousarray(values, np.float32).ravel().tolist()
        return flat


PARTS = PlainParts()


def publish(log: LogWriter, prefix: str, outcome: Outcome, contract: Contract, bundle_sha256: str) -> None:
    """Write a step's action chunk, plan and path under a prefix such as "/a"; its statistics are apart."""
    if not isinstance(outcome, Acted):
        return
    stamp_ns, plan = outcome.chunk.observed_ns, outcome.chunk.plan
    chunk = chunk_fields(outcome, contract, bundle_sha256, SESSION, PARTS)
    log.message(f"{prefix}/action_chunk", ACTION_CHUNK, _versioned(ACTION_CHUNK, chunk), stamp_ns)
    if plan is None:
        return
    log.message(f"{prefix}/plan", PLAN, _versioned(PLAN, plan_fields(plan, outcome, PARTS)), stamp_ns)
    path = path_message(plan, stamp_ns)
    if path is not None:
        log.message(f"{prefix}/plan_path", PATH, path, stamp_ns)


def path_message(plan: Plan, stamp_ns: int) -> Message | None:
    """The waypoints as a nav_msgs/Path; None where they are no positions in metres."""
    points = path_points(plan)
    if points is None:
        return None
    upright = {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}
    poses = [
        {
            "header": PARTS.header(at_ns, plan.frame_id),
            "pose": {"position": dict(zip("xyz", point, strict=True)), "orientation": upright},
        }
        for at_ns, point in points
    ]
    return {"header": PARTS.header(stamp_ns, plan.frame_id), "poses": poses}


def write_stats(log: LogWriter, prefix: str, outcome: Outcome, counts: Mapping[str, int], *, timed: bool) -> None:
    """Write a step's statistics under a prefix."""
    message = _versioned(INFERENCE_STATS, stats_fields(outcome, counts, PARTS, timed=timed))
    log.message(f"{prefix}/inference_stats", INFERENCE_STATS, message, newest_frame_ns(outcome.observation))


def write_difference(log: LogWriter, stamp_ns: int, names: tuple[str, ...], errors: NDArray[np.float64]) -> None:
    """Write `/difference`: a JointState whose positions are the errors of the action columns."""
    message = {
        "header": PARTS.header(stamp_ns),
        "name": list(names),
        "position": [float(error) for error in errors],
        "velocity": [],
        "effort": [],
    }
    log.message("/difference", JOINT_STATE, message, stamp_ns)


def _versioned(kind: str, fields: Message) -> Message:
    return {"schema_version": SCHEMA_VERSIONS[kind], **fields}
