"""Claims about ranges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevlm_calibration.observers import BINS, OBSERVERS, HistogramObserver, minmax, mse

TINIEST, SMALLEST, LARGEST = 2.0**-149, 2.0**-126, float(np.finfo(np.float32).max)  # of float32
pieces = st.lists(
    st.lists(st.floats(-1e6, 1e6, width=32, allow_nan=False), min_size=1, max_size=20), min_size=1, max_size=8
)


def _observer(*parts: NDArray[np.float32]) -> HistogramObserver:
    observed = HistogramObserver()
    for part in parts:
        observed.add(part)
    return observed


def _error(values: NDArray[np.float32], threshold: float) -> float:
    scale = threshold / 127
    return float(np.mean((values - np.clip(np.rint(values / scale), -128, 127) * scale) ** 2))


@given(pieces)
@example([[TINIEST], [SMALLEST]])
@example([[LARGEST], [TINIEST, -LARGEST]])
@settings(max_examples=100, deadline=None)
def test_every_value_is_counted_once_whatever_the_order(parts: list[list[float]]) -> None:
    arrays = [np.array(part, np.float32) for part in parts]
    forward, backward = _observer(*arrays), _observer(*arrays[::-1])
    everything = np.concatenate(arrays)
    assert forward.counts.sum() == everything.size
    assert (forward.minimum, forward.maximum) == (everything.min(), everything.max())
    assert forward.limit == backward.limit
    np.testing.assert_array_equal(forward.counts, backward.counts)


@given(pieces)
@example([[TINIEST], [SMALLEST]])
@example([[LARGEST], [TINIEST, -LARGEST]])
@settings(max_examples=100, deadline=None)
def test_no_threshold_is_beyond_the_largest_magnitude_and_none_is_zero(parts: list[list[float]]) -> None:
    observed = _observer(*(np.array(part, np.float32) for part in parts))
    for choose in OBSERVERS.values():
        assert 0 < choose(observed) <= (observed.peak or 1.0)


def test_a_histogram_grows_without_moving_values_to_other_magnitudes() -> None:
    observed = _observer(np.full(10, 0.9, np.float32), np.full(5, 700.0, np.float32))
    width = observed.limit / BINS
    assert observed.limit == 1024.0 and observed.counts.sum() == 15
    assert observed.counts[int(0.9 / width)] == 10 and observed.counts[int(700.0 / width)] == 5


def test_an_outlier_costs_minmax_its_resolution_and_mse_gives_it_up() -> None:
    bulk = np.random.default_rng(0).standard_normal(400_000).astype(np.float32)
    values = np.concatenate([bulk, [30.0]]).astype(np.float32)
    observed = _observer(values)
    assert minmax(observed) == 30.0
    assert mse(observed) < 20.0
    assert _error(values, mse(observed)) < 0.5 * _error(values, minmax(observed))


def test_mse_keeps_everything_where_values_are_spread_evenly() -> None:
    values = np.linspace(-1, 1, 10_000, dtype=np.float32)
    assert mse(_observer(values)) == pytest.approx(1.0, rel=0.02)


def test_a_tensor_that_was_always_zero_gets_a_harmless_range() -> None:
    observed = _observer(np.zeros(100, np.float32))
    assert minmax(observed) == mse(observed) == 1.0
