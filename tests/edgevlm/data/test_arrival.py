"""Which clock stamps are of: the log times' where these fit any topic, else that of a topic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevlm.data.arrival import Arrival, ages
from edgevlm.rosmsg.contract_check import Limits

SECOND_NS = 1_000_000_000
LOG_NS = np.arange(100, dtype=np.int64) * SECOND_NS // 20 + 1_700_000_000 * SECOND_NS


def arrival(lag_s: float | NDArray[np.float64], every: int = 1) -> Arrival:
    lag_ns = np.broadcast_to(np.rint(np.asarray(lag_s) * SECOND_NS).astype(np.int64), LOG_NS.shape)
    return Arrival(LOG_NS[::every], (LOG_NS - lag_ns)[::every])


def median_s(ages_ns: NDArray[np.int64]) -> float:
    return float(np.median(ages_ns)) / SECOND_NS


@given(camera_s=st.floats(-1000, 1000), state_s=st.floats(-0.09, 0.49))
def test_one_topic_that_fits_the_log_times_makes_them_the_clock(camera_s: float, state_s: float) -> None:
    result = ages({"camera": arrival(camera_s, 3), "state": arrival(state_s)}, Limits())
    assert result.reference == ""
    assert median_s(result.ages_ns["camera"]) == pytest.approx(camera_s, abs=1e-6)


@given(apart_s=st.floats(1, 1.6e9), latency_s=st.floats(0, 0.45))
def test_another_clock_for_all_is_reported_with_its_distance_and_leaves_latency(
    apart_s: float, latency_s: float
) -> None:
    result = ages({"camera": arrival(apart_s + latency_s, 3), "state": arrival(apart_s)}, Limits())
    assert result.reference in ("camera", "state")
    assert result.apart_ns / SECOND_NS == pytest.approx(apart_s, abs=latency_s + 1e-3)
    difference = median_s(result.ages_ns["camera"]) - median_s(result.ages_ns["state"])
    assert difference == pytest.approx(latency_s, abs=1e-6)


def test_a_simulated_clock_may_run_slower_and_start_again() -> None:
    slower = (LOG_NS - LOG_NS[0]) / SECOND_NS * 0.7 + 1e9
    slower[60:] -= 2.0
    result = ages({"camera": arrival(slower, 2), "state": arrival(slower)}, Limits())
    assert result.reference == "camera"
    assert abs(median_s(result.ages_ns["state"])) < 1e-3


def test_among_topics_of_another_clock_the_odd_one_is_odd() -> None:
    result = ages({"a": arrival(5000.0), "b": arrival(100.0), "c": arrival(100.02)}, Limits())
    assert result.reference == "b" and median_s(result.ages_ns["a"]) == pytest.approx(4900)
