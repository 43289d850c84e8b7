"""What a policy publishes, as messages for a recording: the runtime writes them without ROS.

The fields are those that the nodes fill in; see ros2_ws/src/edgevlm_msgs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.data import LogWriter
from edgevlm.loop.worker import Acted, Outcome
from edgevlm.manifest.contract import SECOND_NS, Contract, Plan
from edgevlm.rosmsg.own_schemas import ACTION_CHUNK, INFERENCE_STATS, PLAN, SCHEMA_VERSIONS
from edgevlm.rosmsg.schemas import JOINT_STATE, PATH

Message = dict[str, Any]


def publish(log: LogWriter, prefix: str, outcome: Outcome, contract: Contract, bundle_sha256: str) -> None:
    """Write a step's action chunk, plan and path under a prefix such as "/a"; its statistics are apart."""
    if not isinstance(outcome, Acted):
        return
    stamp_ns, plan = outcome.chunk.observed_ns, outcome.chunk.plan
    log.message(f"{prefix}/action_chunk", ACTION_CHUNK, chunk_message(outcome, contract, bundle_sha256), stamp_ns)
    if plan is None:
        return
    log.message(f"{prefix}/plan", PLAN, plan_message(plan, outcome), stamp_ns)
    path = path_message(plan, stamp_ns)
    if path is not None:
        log.message(f"{prefix}/plan_path", PATH, path, stamp_ns)


def chunk_message(acted: Acted, contract: Contract, bundle_sha256: str) -> Message:
    """An ActionChunk; its session is 0, as there is only one."""
    chunk, observation = acted.chunk, acted.observation
    return {
        "schema_version": SCHEMA_VERSIONS[ACTION_CHUNK],
        "header": _header(chunk.observed_ns, contract.action.groups[0].frame_id),
        "session": 0,
        "sequence": chunk.sequence,
        "bundle_sha256": bundle_sha256,
        "instruction": observation.instruction,
        "cameras": list(observation.frames),
        "frame_stamps": [_time(frame.stamp_ns) for frame in observation.frames.values()],
        "state_stamp": _time(observation.state.stamp_ns if observation.state else 0),
        "inference_started": _time(acted.times.started_ros_ns),
        "inference_ended": _time(acted.times.ended_ros_ns),
        "valid_until": _time(chunk.valid_until_ns),
        "step_s": float(chunk.step_s),
        "names": list(chunk.names),
        "units": list(chunk.units),
        "values": _floats(chunk.values),
    }


def plan_message(plan: Plan, acted: Acted) -> Message:
    """A Plan with the chunk's stamp and sequence."""
    return {
        "schema_version": SCHEMA_VERSIONS[PLAN],
        "header": _header(acted.chunk.observed_ns, plan.frame_id),
        "sequence": acted.chunk.sequence,
        "instruction": acted.observation.instruction,
        "step": plan.step,
        "steps": list(plan.steps),
        "confidence": _floats(plan.confidence),
        "waypoint_stamps": [_time(stamp_ns) for stamp_ns in plan.stamps_ns],
        "names": list(plan.names),
        "units": list(plan.units),
        "waypoints": _floats(plan.waypoints),
    }


def path_message(plan: Plan, stamp_ns: int) -> Message | None:
    """The waypoints as a nav_msgs/Path; None where they are no positions x, y, z in metres."""
    if not {"x", "y", "z"} <= set(plan.names):
        return None
    places = [plan.names.index(name) for name in "xyz"]
    if {plan.units[place] for place in places} != {"m"}:
        return None
    upright = {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}
    poses = [
        {
            "header": _header(at_ns, plan.frame_id),
            "pose": {
                "position": {axis: float(point[place]) for axis, place in zip("xyz", places, strict=True)},
                "orientation": upright,
            },
        }
        for point, at_ns in zip(plan.waypoints, plan.stamps_ns, strict=True)
    ]
    return {"header": _header(stamp_ns, plan.frame_id), "poses": poses}


def stats_message(outcome: Outcome, counts: Mapping[str, int], *, timed: bool) -> Message:
    """An InferenceStats; `counts` has the five by their names. Not `timed`: every duration is 0."""
    newest_ns = max(frame.stamp_ns for frame in outcome.observation.frames.values())
    stages: dict[str, int] = {}
    sequence, error = 0, ""
    if isinstance(outcome, Acted):
        stages = {name: ns for name, ns in outcome.stages_ns.items() if name != "step"}
        sequence = outcome.chunk.sequence
    else:
        error = f"{type(outcome.error).__name__}: {outcome.error}"
    times = outcome.times
    return {
        "schema_version": SCHEMA_VERSIONS[INFERENCE_STATS],
        "header": _header(newest_ns),
        "sequence": sequence,
        "error": error,
        "warm_up": times.warm_up,
        "step_ms": times.duration_ns / 1e6 if timed else 0.0,
        "latency_ms": (times.ended_ros_ns - newest_ns) / 1e6 if timed else 0.0,
        "stages": list(stages),
        "stage_ms": [ns / 1e6 if timed else 0.0 for ns in stages.values()],
        **counts,
    }


def write_stats(log: LogWriter, prefix: str, outcome: Outcome, counts: Mapping[str, int], *, timed: bool) -> None:
    """Write a step's statistics under a prefix."""
    message = stats_message(outcome, counts, timed=timed)
    stamp_ns = max(frame.stamp_ns for frame in outcome.observation.frames.values())
    log.message(f"{prefix}/inference_stats", INFERENCE_STATS, message, stamp_ns)


def write_difference(log: LogWriter, stamp_ns: int, names: tuple[str, ...], errors: NDArray[np.float64]) -> None:
    """Write `/difference`: a JointState whose positions are the errors of the action columns."""
    message = {
        "header": _header(stamp_ns),
        "name": list(names),
        "position": [float(error) for error in errors],
        "velocity": [],
        "effort": [],
    }
    log.message("/difference", JOINT_STATE, message, stamp_ns)


def _header(stamp_ns: int, frame_id: str = "") -> Message:
    return {"stamp": _time(stamp_ns), "frame_id": frame_id}


def _time(stamp_ns: int) -> Message:
    """Before 0 there are no stamps, so those become 0."""
    sec, nanosec = divmod(max(0, int(stamp_ns)), SECOND_NS)
    return {"sec": sec, "nanosec": nanosec}


def _floats(values: NDArray[np.float32]) -> list[float]:
    flat: list[float] = np.ascontiguousarray(values, np.float32).ravel().tolist()
    return flat
