"""The window over time: slots are filled by stamp, whatever the rate, the drops and the jitter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import MS, START_NS, window

from edgevlm.errors import StampError, WindowNotReadyError
from edgevlm.manifest.contract import SECOND_NS, WindowSpec
from edgevlm.temporal import FrameRing, fill, nearest, nearest_within, newest_until, sample


@dataclass(frozen=True)
class Frame:
    stamp_ns: int


def stream(rate_hz: int, seconds: float, seed: int) -> list[int]:
    """Stamps of a camera with 10 % drops and 10 ms jitter, rising."""
    random = np.random.default_rng(seed)
    count = round(rate_hz * seconds)
    times = np.arange(count) / rate_hz + random.uniform(-0.005, 0.005, count)
    retained = times[random.random(count) >= 0.1]
    return sorted({START_NS + round(time * SECOND_NS) for time in retained})


def targets(now_ns: int, spec: WindowSpec) -> list[int]:
    return [now_ns + round(offset * SECOND_NS) for offset in spec.offsets_s]


specs = st.builds(
    lambda offsets, tolerance, pad: WindowSpec(
        offsets_s=tuple(sorted({-offset / 1000 for offset in offsets} | {0.0})), tolerance_s=tolerance / 1000, pad=pad
    ),
    st.lists(st.integers(1, 2000), max_size=8),
    st.integers(1, 300),
    st.sampled_from(["repeat", "mask", "wait"]),
)
stamps = st.lists(st.integers(0, 3000 * MS), min_size=1, max_size=40, unique=True).map(sorted)


@pytest.mark.parametrize("rate_hz", [15, 30, 60])
@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), slots=st.integers(1, 8), tolerance_ms=st.integers(20, 60))
def test_every_slot_with_a_frame_in_tolerance_gets_the_nearest(
    rate_hz: int, seed: int, slots: int, tolerance_ms: int
) -> None:
    spec = window(slots, tolerance_s=tolerance_ms / 1000, pad="mask")
    ring: FrameRing[Frame] = FrameRing(spec)
    observed: list[int] = []
    filled = 0
    for stamp_ns in stream(rate_hz, 2.0, seed):
        ring.add(Frame(stamp_ns))
        observed.append(stamp_ns)
        for target_ns, frame in zip(targets(stamp_ns, spec), ring.window(stamp_ns), strict=True):
            best = min(observed, key=lambda other, at=target_ns: abs(other - at))  # over ALL frames there ever were
            if abs(best - target_ns) <= tolerance_ms * MS:
                assert frame is not None
                assert abs(frame.stamp_ns - target_ns) == abs(best - target_ns)
                filled += 1
            else:
                assert frame is None
        assert len(ring) <= rate_hz * (0.1 * slots + 0.1) + 2
    assert filled


@pytest.mark.parametrize(("rate_hz", "worst"), [(15, 0.90), (30, 0.97), (60, 0.99)])
def test_a_window_in_flow_is_nearly_always_full(rate_hz: int, worst: float) -> None:
    spec = window(4, pad="mask")
    ring: FrameRing[Frame] = FrameRing(spec)
    slots: list[Frame | None] = []
    for stamp_ns in stream(rate_hz, 60.0, seed=7):
        ring.add(Frame(stamp_ns))
        if stamp_ns > START_NS + SECOND_NS:
            slots += ring.window(stamp_ns)
    assert sum(slot is not None for slot in slots) / len(slots) >= worst


@given(stamps, st.integers(-100 * MS, 3100 * MS))
def test_nearest_is_the_minimum_and_the_older_of_two(rising: list[int], target_ns: int) -> None:
    index = nearest(rising, target_ns)
    assert (abs(rising[index] - target_ns), rising[index]) == min((abs(s - target_ns), s) for s in rising)


@given(st.lists(st.integers(0, 60), max_size=20, unique=True).map(sorted), st.integers(-5, 65), st.integers(-1, 30))
def test_what_is_looked_up_by_its_stamp_is_what_a_search_of_all_finds(
    rising: list[int], target_ns: int, tolerance_ns: int
) -> None:
    near = [(abs(stamp - target_ns), stamp) for stamp in rising if abs(stamp - target_ns) <= tolerance_ns]
    expected = rising.index(min(near)[1]) if near else None
    assert nearest_within(rising, target_ns, tolerance_ns) == expected
    before = [stamp for stamp in rising if 0 <= target_ns - stamp <= tolerance_ns]
    assert newest_until(rising, target_ns, tolerance_ns) == (rising.index(max(before)) if before else None)


@given(stamps, st.integers(0, 3000 * MS), specs)
def test_sample_gives_the_nearest_within_tolerance_or_none(rising: list[int], now_ns: int, spec: WindowSpec) -> None:
    limit_ns = round(spec.tolerance_s * SECOND_NS)
    for index, target_ns in zip(sample(rising, now_ns, spec), targets(now_ns, spec), strict=True):
        best = nearest(rising, target_ns)
        assert index == (best if abs(rising[best] - target_ns) <= limit_ns else None)


@given(stamps, specs)
def test_padding_follows_the_rule_of_the_contract(rising: list[int], spec: WindowSpec) -> None:
    now_ns = rising[-1]
    sampled = sample(rising, now_ns, spec)
    if spec.pad == "wait" and None in sampled:
        with pytest.raises(WindowNotReadyError, match="no frame yet for the slots at"):
            fill(rising, now_ns, spec)
        return
    filled = fill(rising, now_ns, spec)
    assert all(after == before for before, after in zip(sampled, filled, strict=True) if before is not None)
    if spec.pad == "mask":
        assert filled == sampled
    else:
        assert filled == tuple(nearest(rising, target_ns) for target_ns in targets(now_ns, spec))
        assert sorted(filled) == list(filled)  # a padded window is still in the order of time


def test_at_the_start_of_an_episode_the_oldest_frame_fills_the_past() -> None:
    spec = window(4)
    assert fill([0], 0, spec) == (0, 0, 0, 0)
    assert fill([0, 100 * MS], 100 * MS, spec) == (0, 0, 0, 1)


def test_an_empty_window_and_a_camera_that_fell_behind_are_named() -> None:
    with pytest.raises(StampError, match=r"expected a frame within 50 ms of now, got no frame"):
        fill([], 0, window(2))
    with pytest.raises(StampError, match=r"got newest frame 80\.0 ms old"):
        fill([0], 80 * MS, window(2))


@given(st.lists(st.integers(-5 * MS, 400 * MS), min_size=1, max_size=80), specs)
def test_a_ring_takes_only_newer_frames_and_loses_none_in_reach(steps: list[int], spec: WindowSpec) -> None:
    ring: FrameRing[Frame] = FrameRing(spec)
    accepted: list[int] = []
    dropped: list[int] = []
    stamp_ns = START_NS
    for step in steps:
        stamp_ns += step
        if accepted and stamp_ns <= accepted[-1]:
            before = list(ring)
            with pytest.raises(StampError, match="expected a frame after"):
                ring.add(Frame(stamp_ns))
            assert list(ring) == before
            continue
        dropped += [frame.stamp_ns for frame in ring.add(Frame(stamp_ns))]
        accepted.append(stamp_ns)
        retained = [frame.stamp_ns for frame in ring]
        assert dropped + retained == accepted
        assert ring.newest_ns == retained[-1] == stamp_ns
        # whatever the window could still ask for, now or later, is there
        assert sample(retained, stamp_ns, spec) == tuple(
            None if i is None else i - len(dropped) for i in sample(accepted, stamp_ns, spec)
        )
        oldest_ns = targets(stamp_ns, spec)[0] - round(spec.tolerance_s * SECOND_NS)
        assert all(each >= oldest_ns for each in retained)


def test_a_frame_at_the_very_edge_of_the_tolerance_stays_in_reach() -> None:
    spec = WindowSpec(offsets_s=(-0.0000000015, 0.0), tolerance_s=0.0000000015, pad="mask")  # rounds to 2 ns each
    ring: FrameRing[Frame] = FrameRing(spec)
    ring.add(Frame(0))
    ring.add(Frame(4))
    assert ring.window(4) == (Frame(0), Frame(4))


def test_clear_gives_all_frames_back_and_lets_time_begin_anew() -> None:
    ring: FrameRing[Frame] = FrameRing(window(4))
    ring.add(Frame(START_NS))
    assert ring.clear() == [Frame(START_NS)]
    assert (len(ring), ring.newest, ring.newest_ns) == (0, None, None)
    ring.add(Frame(0))
    assert ring.newest == Frame(0)
