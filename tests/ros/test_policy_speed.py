"""A slow policy: what is refused, what is told, with which numbers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("edgevlm_ros", reason="needs the built workspace: make ros-build")

from edgevlm.errors import ContractError
from edgevlm_ros.policy_speed import Chunks, GateDeadline, Step, check_horizon, judge, least_deadline_ms, read_gate

SHORT, LONG = Chunks(8, 100.0), Chunks(50, 100.0)
GATE, FULL_CHUNK = GateDeadline(300.0, "deadline"), GateDeadline(300.0, "whole_chunk")


def step(ms: float, period_ms: float = 33.0) -> Step:
    return Step(best_ms=ms, p99_ms=ms, steps=20, period_ms=period_ms)


def test_a_step_that_outlasts_its_chunk_is_refused_with_the_numbers() -> None:
    with pytest.raises(ContractError, match=r"takes 859 ms \(p99 of 20\).*over after 800 ms, 8 rows of 100 ms"):
        check_horizon(step(859.0), SHORT)
    check_horizon(step(859.0), LONG)


def test_a_step_beyond_the_deadline_is_an_error_with_the_value_to_set() -> None:
    level, text = judge(step(859.0), LONG, GATE)
    assert level == "error"
    for part in ("859 ms", "300 ms", "deadline_ms to at least 1290", "chunk_deadline to whole_chunk", "5000 ms"):
        assert part in text
    assert judge(step(859.0), LONG, FULL_CHUNK) == ("ok", "ok")


def test_full_chunks_are_not_advised_where_they_are_too_short() -> None:
    level, text = judge(step(500.0), SHORT, GATE)
    assert level == "error"
    assert "whole_chunk" not in text
    level, text = judge(step(500.0), SHORT, FULL_CHUNK)
    assert level == "warn"
    assert "stop between chunks" in text


def test_near_the_deadline_is_a_warning_and_well_below_is_none() -> None:
    assert judge(step(280.0), LONG, GATE)[0] == "warn"
    assert judge(step(200.0), LONG, GATE) == ("ok", "ok")


def test_a_camera_that_is_slower_than_the_deadline_counts_as_well() -> None:
    level, text = judge(step(20.0, period_ms=500.0), LONG, GATE)
    assert (level, "every 500 ms" in text) == ("error", True)


@given(st.floats(0.1, 5000), st.floats(0.1, 1000), st.integers(1, 100), st.floats(10, 10_000))
def test_the_value_that_is_advised_is_enough(ms: float, period_ms: float, rows: int, deadline_ms: float) -> None:
    chunks, slow = Chunks(rows, 100.0), step(ms, period_ms)
    level, text = judge(slow, chunks, GateDeadline(deadline_ms, "deadline"))
    if "deadline_ms to at least" in text:
        assert "deadline_ms" not in judge(slow, chunks, GateDeadline(least_deadline_ms(slow), "deadline"))[1]
    if "to whole_chunk" in text:
        assert judge(slow, chunks, GateDeadline(deadline_ms, "whole_chunk")) == ("ok", "ok")
    assert level == "error" or slow.interval_ms <= deadline_ms


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"deadline_ms": "x", "chunk_deadline": "deadline"}', '{"deadline_ms": 3}'),
        *("[" * 100_000, "[" * 60_000, '{"a":' * 10_000),
        *(f'{{"deadline_ms": {number}, "chunk_deadline": "deadline"}}' for number in ("9" * 400, "9" * 5000, "1e999")),
        *('{"deadline_ms": NaN, "chunk_deadline": "deadline"}', '{"deadline_ms": 3, "chunk_deadline": []}'),
        f'{{"deadline_ms": 3, "chunk_deadline": "deadline", "more": "{"x" * 70_000}"}}',
    ],
    ids=lambda text: text[:40],
)
def test_what_no_gate_says_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match="gate_limits: expected") as refusal:
        read_gate(text)
    assert len(str(refusal.value)) < 300
    assert read_gate(GATE.text()) == GATE


@given(st.text(max_size=200) | st.recursive(st.none() | st.floats() | st.integers(), st.lists).map(json.dumps))
def test_whatever_the_text_it_is_a_gate_s_or_refused(text: str) -> None:
    with pytest.raises(ContractError):
        read_gate(text)
