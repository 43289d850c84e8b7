"""Durations to percentiles, and where the time of a step went."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevlm.profiler import StepRecorder, machine, peak_rss_mb, summarize


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=300))
def test_percentiles_are_ordered_and_lie_among_the_durations(durations_ns: list[int]) -> None:
    summary = summarize(durations_ns)
    assert summary["n"] == len(durations_ns)
    assert min(durations_ns) / 1e6 <= summary["p50"] <= summary["p95"] <= summary["p99"] <= summary["max"]
    assert summary["max"] == max(durations_ns) / 1e6


def test_gives_milliseconds() -> None:
    summary = summarize([n * 1_000_000 for n in range(1, 102)])
    assert summary == {"p50": 51.0, "p95": 96.0, "p99": 100.0, "max": 101.0, "n": 101}


def test_no_durations_give_zeros_and_n_says_so() -> None:
    assert summarize([]) == {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0, "n": 0}


@given(st.lists(st.dictionaries(st.sampled_from(["vision", "head", "preprocess"]), st.integers(0, 10**6)), max_size=20))
def test_the_parts_and_the_overhead_make_the_step(steps: list[dict[str, int]]) -> None:
    recorder = StepRecorder()
    for parts in steps:
        recorder.add({**parts, "step": sum(parts.values()) + 1000})
    summary = recorder.summary()
    for name in ("vision", "head", "preprocess"):
        ran = [parts[name] for parts in steps if name in parts]
        assert summary.get(name, {"n": 0})["n"] == len(ran)
    if steps:
        assert summary["overhead"] == pytest.approx(
            {"p50": 1e-3, "p95": 1e-3, "p99": 1e-3, "max": 1e-3, "n": len(steps)}
        )
        assert summary["step"]["n"] == len(steps)


def test_keeps_the_callers_times_as_they_were() -> None:
    times = {"vision": 3, "step": 5}
    StepRecorder().add(times)
    assert times == {"vision": 3, "step": 5}


def test_names_the_machine_that_a_figure_was_measured_on() -> None:
    facts = machine()
    assert facts["processors"] >= 1
    assert facts["cpu"]
    assert facts["versions"]["numpy"] == np.__version__
    assert peak_rss_mb() > 10
