"""Silence is noticed in time, reported once, and forgiven only where that is allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevlm.errors import ContractError
from edgevlm.loop.watchdog import Deadline, Watchdog

MS = 1_000_000
CAMERA = Deadline(name="camera", timeout_s=0.1)
CHUNK = Deadline(name="chunk", timeout_s=0.5, latched=True)


def watchdog() -> Watchdog:
    return Watchdog([CAMERA, CHUNK], now_steady_ns=0)


def test_a_source_that_never_came_is_missing_after_its_deadline() -> None:
    dog = watchdog()
    assert dog.check(100 * MS) == ()
    (event,) = dog.check(101 * MS)
    assert (event.name, event.kind, event.silent_ns) == ("camera", "missing", 101 * MS)
    assert dog.check(102 * MS) == ()
    assert dog.faults == ("camera",)


def test_a_source_that_comes_back_is_reported_once() -> None:
    dog = watchdog()
    dog.check(200 * MS)
    dog.beat("camera", 210 * MS)
    assert [(event.name, event.kind) for event in dog.check(220 * MS)] == [("camera", "back")]
    assert dog.faults == ()
    assert dog.check(230 * MS) == ()


def test_a_latched_fault_stays_until_it_is_rearmed() -> None:
    dog = watchdog()
    dog.check(600 * MS)
    dog.rearm()
    assert "chunk" in dog.faults, "it is still missing"
    dog.beat("chunk", 610 * MS)
    dog.check(620 * MS)
    assert "chunk" in dog.faults
    dog.rearm()
    assert "chunk" not in dog.faults


def test_a_gap_between_two_checks_is_noticed() -> None:
    dog = watchdog()
    dog.beat("camera", 10 * MS)
    dog.beat("camera", 400 * MS)
    events = [(event.name, event.kind) for event in dog.check(401 * MS)]
    assert events == [("camera", "missing"), ("camera", "back")]
    assert dog.rows(401 * MS)[0].missing == 1


def test_rows_tell_rate_age_drops_and_silence() -> None:
    dog = watchdog()
    for k in range(11):
        dog.beat("camera", k * 20 * MS, age_ns=5 * MS)
    dog.drop("camera", 3)
    camera, chunk = dog.rows(210 * MS)
    assert camera.rate_hz == pytest.approx(50.0)
    assert (camera.health, camera.age_ms, camera.beats, camera.drops) == ("ok", 5.0, 11, 3)
    assert camera.silent_s == pytest.approx(0.01)
    assert (chunk.health, chunk.rate_hz, chunk.age_ms) == ("waiting", 0.0, None)
    dog.check(1000 * MS)
    assert dog.rows(1000 * MS)[0].rate_hz == 0.0


def test_start_begins_anew() -> None:
    dog = watchdog()
    dog.check(600 * MS)
    dog.start(600 * MS)
    assert dog.faults == ()
    assert dog.check(650 * MS) == ()
    assert [row.missing for row in dog.rows(650 * MS)] == [0, 0]


def test_refuses_names_it_does_not_watch_and_names_twice() -> None:
    with pytest.raises(ContractError, match="lidar"):
        watchdog().beat("lidar", 0)
    with pytest.raises(ContractError, match="distinct"):
        Watchdog([CAMERA, CAMERA], 0)


@given(st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=60))
def test_missing_means_silent_for_longer_than_the_deadline(steps: list[tuple[int, bool]]) -> None:
    """Each step waits some milliseconds, then the camera beats or not, then all is checked."""
    dog = watchdog()
    now = last = 0
    for wait_ms, beats in steps:
        now += wait_ms * MS
        if beats:
            dog.beat("camera", now)
            last = now
        dog.check(now)
        assert ("camera" in dog.faults) == (now - last > 100 * MS)
