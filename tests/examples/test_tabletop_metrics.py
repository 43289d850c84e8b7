"""Latency, age and overhead from what gate and policy say: known messages, known figures."""

from __future__ import annotations

from edgevlm_tabletop.ros.metrics import Followed, Inferred, Metrics

MS = 1_000_000
FRAMES = (1000 * MS, 1100 * MS, 1200 * MS, 1300 * MS)


def test_latency_is_of_the_first_command_of_an_observation_and_age_of_every_one() -> None:
    metrics = Metrics()
    followed = [Followed(stamp * MS, 1000 * MS) for stamp in (1065, 1040, 1090)] + [Followed(1120 * MS, 1100 * MS)]
    metrics.add(FRAMES, followed, [])
    result = metrics.to_json()
    assert (result["latency_ms"]["n"], result["latency_ms"]["max"]) == (2, 40.0)
    assert (result["command_age_ms"]["n"], result["command_age_ms"]["max"]) == (4, 90.0)


def test_what_belongs_to_no_frame_of_the_episode_is_left_out() -> None:
    metrics = Metrics()
    metrics.add(FRAMES, [Followed(990 * MS, 900 * MS)], [Inferred(900 * MS, 50.0, 9.0, 7)])
    result = metrics.to_json()
    assert result["latency_ms"]["n"] == result["command_age_ms"]["n"] == result["overhead_ms"]["n"] == 0
    assert result["frames_sent"] == result["frames_received"] == 0


def test_overhead_is_latency_without_the_step() -> None:
    metrics = Metrics()
    metrics.add(FRAMES, [], [Inferred(1000 * MS, 14.0, 9.0, 1)])
    assert metrics.to_json()["overhead_ms"]["p50"] == 5.0
    assert metrics.to_json()["step_ms"]["p50"] == 9.0


def test_a_frame_that_was_lost_is_missing_among_the_received() -> None:
    metrics = Metrics()
    inferred = [Inferred(1000 * MS, 14.0, 9.0, 41), Inferred(1200 * MS, 14.0, 9.0, 42)]
    metrics.add(FRAMES, [], inferred)
    assert (metrics.to_json()["frames_sent"], metrics.to_json()["frames_received"]) == (3, 2)


def test_frames_after_the_last_inference_are_not_held_against_anyone() -> None:
    metrics = Metrics()
    metrics.add(FRAMES, [], [Inferred(1100 * MS, 14.0, 9.0, 2), Inferred(1000 * MS, 14.0, 9.0, 1)])
    assert (metrics.to_json()["frames_sent"], metrics.to_json()["frames_received"]) == (2, 2)
