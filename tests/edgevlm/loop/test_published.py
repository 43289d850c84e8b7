"""What a policy publishes has the values of the step that it tells of, each in its own field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import tiny

from edgevlm.errors import InstructionError
from edgevlm.loop.published import chunk_fields, path_points, plan_fields, stats_fields
from edgevlm.loop.worker import Acted, Failed, Times
from edgevlm.manifest.contract import ActionChunk, Plan
from edgevlm.replay.published import PARTS

CONTRACT = tiny.mono_contract()
COUNTS = {"frames_received": 9, "frames_dropped": 2, "observations_dropped": 1, "acted": 5, "failed": 3}
STAMP_NS = 7_000_000_001
PLAN = Plan(
    waypoints=np.array([[1, 2, 3], [4, 5, 6]], np.float32),
    stamps_ns=(8_000_000_000, 9_000_000_000),
    names=("y", "x", "z"),
    units=("m", "m", "m"),
    frame_id="base",
    steps=("approach", "lift"),
    confidence=np.array([0.25, 0.75], np.float32),
)


@pytest.fixture
def acted() -> Acted:
    chunk = ActionChunk(
        values=np.array([[1, 2, 3], [4, 5, 6]], np.float32),
        names=("dx", "dy", "grip"),
        units=("m", "m", "1"),
        step_s=0.1,
        observed_ns=STAMP_NS,
        valid_until_ns=STAMP_NS + 250_000_000,
        sequence=12,
        plan=PLAN,
    )
    observation = tiny.observation(CONTRACT, 1, "open the drawer", STAMP_NS)
    times = Times(STAMP_NS + 1_000_000, STAMP_NS + 20_000_000, 100, 19_000_100, False)
    return Acted(chunk, observation, times, {"step": 19_000_000, "vision": 5_500_000})


def test_a_chunk_says_what_it_was_made_from_and_when(acted: Acted) -> None:
    fields = chunk_fields(acted, CONTRACT, "f" * 64, 3, PARTS)
    assert fields == {
        "header": {"stamp": {"sec": 7, "nanosec": 1}, "frame_id": CONTRACT.action.groups[0].frame_id},
        "session": 3,
        "sequence": 12,
        "bundle_sha256": "f" * 64,
        "instruction": "open the drawer",
        "cameras": ["front"],
        "frame_stamps": [{"sec": 7, "nanosec": 1}],
        "state_stamp": {"sec": 7, "nanosec": 1},
        "inference_started": {"sec": 7, "nanosec": 1_000_001},
        "inference_ended": {"sec": 7, "nanosec": 20_000_001},
        "valid_until": {"sec": 7, "nanosec": 250_000_001},
        "step_s": 0.1,
        "names": ["dx", "dy", "grip"],
        "units": ["m", "m", "1"],
        "values": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    }


def test_a_plan_says_its_step_and_its_waypoints_are_a_path_only_in_metres(acted: Acted) -> None:
    fields = plan_fields(PLAN, acted, PARTS)
    assert (fields["step"], fields["confidence"], fields["sequence"]) == ("lift", [0.25, 0.75], 12)
    assert fields["waypoints"] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert fields["waypoint_stamps"] == [{"sec": 8, "nanosec": 0}, {"sec": 9, "nanosec": 0}]
    assert path_points(PLAN) == [(8_000_000_000, (2.0, 1.0, 3.0)), (9_000_000_000, (5.0, 4.0, 6.0))]
    assert path_points(replace(PLAN, units=("m", "m", "mm"))) is None
    assert path_points(replace(PLAN, names=("a", "x", "z"))) is None


def test_statistics_say_where_the_time_went_or_why_the_step_failed(acted: Acted) -> None:
    fields = stats_fields(acted, COUNTS, PARTS)
    assert fields == {
        "header": {"stamp": {"sec": 7, "nanosec": 1}, "frame_id": ""},
        "sequence": 12,
        "error": "",
        "warm_up": False,
        "step_ms": 19.0,
        "latency_ms": 20.0,
        "stages": ["vision"],
        "stage_ms": [5.5],
        **COUNTS,
    }
    untimed = stats_fields(acted, COUNTS, PARTS, timed=False)
    assert (untimed["step_ms"], untimed["latency_ms"], untimed["stage_ms"]) == (0.0, 0.0, [0.0])
    failed = stats_fields(Failed(InstructionError("no such word"), acted.observation, acted.times), COUNTS, PARTS)
    assert (failed["error"], failed["sequence"], failed["stages"]) == ("InstructionError: no such word", 0, [])
