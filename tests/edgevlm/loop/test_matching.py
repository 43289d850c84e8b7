"""Frames and states with stamps of their own become the observations that a recording of them would give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevlm.errors import ContractError, StampError
from edgevlm.loop.mailbox import Mailbox
from edgevlm.loop.matching import PASSED_KEPT, Frame, Matched, Matcher, MatchSpec, State, merge
from edgevlm.manifest.contract import Stamped

MS = 1_000_000
T0 = 1_700_000_000_000 * MS
SPEC: dict[str, Any] = {
    "tolerance_s": 0.05,
    "state_tolerance_s": 0.1,
    "max_age_s": 0.5,
    "wait_s": 0.02,
    "future_s": 0.05,
    "reset_after_s": 1.0,
}


def frame(ms: float) -> Frame:
    return Stamped(np.zeros((1, 1, 3), np.uint8), T0 + round(ms * MS))


def state(ms: float) -> State:
    return Stamped(np.array([ms], np.float32), T0 + round(ms * MS))


class Bench:
    """A matcher with both clocks at the same number of milliseconds."""

    def __init__(self, *cameras: str, needs_state: bool = False, **more: Any) -> None:
        self.matcher = Matcher(cameras, MatchSpec(**{**SPEC, **more}), needs_state=needs_state)

    def frame(self, camera: str, stamp_ms: float, now_ms: float | None = None) -> bool:
        now = round((stamp_ms if now_ms is None else now_ms) * MS)
        return self.matcher.add_frame(camera, frame(stamp_ms), T0 + now, now)

    def state(self, stamp_ms: float, now_ms: float | None = None) -> bool:
        return self.matcher.add_state(state(stamp_ms), T0 + round((stamp_ms if now_ms is None else now_ms) * MS))

    def match(self, now_ms: float) -> Matched | None:
        return self.matcher.match(T0 + round(now_ms * MS), round(now_ms * MS))

    def stamps(self, now_ms: float) -> dict[str, float] | None:
        match = self.match(now_ms)
        return None if match is None else {name: (f.stamp_ns - T0) / MS for name, f in match.frames.items()}


def test_one_camera_is_matched_at_once() -> None:
    bench = Bench("a")
    bench.frame("a", 10)
    assert bench.stamps(10) == {"a": 10}
    assert bench.match(11) is None, "each lead frame at most once"


def test_takes_the_nearest_frame_of_the_other_camera_once_that_is_certain() -> None:
    bench = Bench("a", "b")
    bench.frame("b", 80)
    bench.frame("a", 100)
    assert bench.match(101) is None, "a nearer one may come"
    bench.frame("b", 104)
    assert bench.stamps(105) == {"a": 100, "b": 104}


def test_waits_for_a_slower_camera_only_up_to_the_bound() -> None:
    bench = Bench("a", "b")
    bench.frame("b", 80)
    bench.frame("a", 100)
    assert bench.match(119) is None
    assert bench.matcher.wake_steady_ns == 120 * MS
    assert bench.stamps(120) == {"a": 100, "b": 80}


def test_counts_a_lead_frame_without_partner_once() -> None:
    bench = Bench("a", "b")
    bench.frame("a", 100)
    assert [bench.match(ms) for ms in (110, 120, 200, 700)] == [None] * 4
    assert bench.matcher.counts["a.unmatched"] == 1


def test_a_partner_may_serve_two_lead_frames() -> None:
    bench = Bench("a", "b")
    bench.frame("a", 100)
    bench.frame("b", 100)
    assert bench.stamps(100) == {"a": 100, "b": 100}
    bench.frame("a", 133)
    assert bench.stamps(153) == {"a": 133, "b": 100}


def test_frames_beyond_the_tolerance_do_not_belong_together() -> None:
    bench = Bench("a", "b", "c")
    for camera, stamp in (("a", 100), ("b", 70), ("c", 125)):  # each within 50 ms of the lead, not of each other
        bench.frame(camera, stamp, 130)
    assert bench.match(160) is None
    assert bench.matcher.counts["a.unmatched"] == 1


def test_the_state_is_the_newest_at_or_before_the_lead_frame() -> None:
    bench = Bench("a", needs_state=True)
    for ms in (60, 80, 100, 120):
        bench.state(ms, 130)
    bench.frame("a", 110, 130)
    match = bench.match(130)
    assert match is not None
    assert match.state is not None
    assert match.state.value.tolist() == [100.0]


def test_waits_for_a_state_and_counts_when_none_comes() -> None:
    bench = Bench("a", needs_state=True)
    bench.frame("a", 100)
    assert bench.match(101) is None
    assert bench.match(121) is None
    assert bench.matcher.counts["a.unmatched"] == 1
    bench.state(130)
    bench.frame("a", 131)
    assert bench.stamps(131) == {"a": 131}


def test_in_lock_step_the_state_of_the_frame_itself_is_waited_for() -> None:
    bench = Bench("a", needs_state=True, wait_for_state=True, wait_s=10)
    bench.state(0)
    bench.frame("a", 50)
    assert bench.match(60) is None
    bench.state(50, 60)
    match = bench.match(60)
    assert match is not None
    assert match.state is not None
    assert match.state.stamp_ns == T0 + 50 * MS


@pytest.mark.parametrize(
    ("stamp_ms", "verdict"), [(10_000, "future"), (-10_000, "old"), (100, "late"), (99, "late"), (101, "taken")]
)
def test_out_of_order_and_far_off_stamps_are_dropped_and_counted(stamp_ms: float, verdict: str) -> None:
    bench = Bench("a", needs_state=True)
    assert bench.frame("a", 100)
    assert bench.state(100)
    assert bench.frame("a", stamp_ms, 110) is (verdict == "taken")
    assert bench.state(stamp_ms, 110) is (verdict == "taken")
    assert bench.matcher.counts[f"a.{verdict}"] >= 1
    assert bench.matcher.counts[f"state.{verdict}"] >= 1


def test_a_far_off_stamp_does_not_hold_up_the_right_ones() -> None:
    bench = Bench("a")
    bench.frame("a", 10_000, 100)
    assert bench.frame("a", 110)
    assert bench.stamps(110) == {"a": 110}


def test_a_frame_that_waited_too_long_is_not_acted_on() -> None:
    bench = Bench("a")
    bench.frame("a", 100)
    assert bench.match(601) is None
    assert bench.matcher.counts["a.unmatched"] == 1


def test_a_camera_without_its_lead_keeps_no_frame_for_long() -> None:
    bench = Bench("a", "b")
    for ms in range(0, 3000, 30):
        bench.frame("b", ms)
        assert bench.match(ms) is None
    assert bench.matcher.counts["b.unmatched"] == 83  # those older than 0.5 s
    bench.frame("a", 2970)
    match = bench.match(2970)
    assert match is not None
    assert len(match.passed) == 16


def test_a_clock_that_restarts_begins_anew() -> None:
    bench = Bench("a", "b", needs_state=True)
    for source in ("a", "b"):
        bench.frame(source, 5000)
    bench.state(5000)
    bench.match(5000)
    assert bench.frame("a", 3)
    bench.frame("b", 3)
    bench.state(3)
    assert bench.stamps(3) == {"a": 3, "b": 3}
    assert bench.matcher.counts["restarts"] == 1


def test_a_small_step_back_of_the_clock_is_no_restart() -> None:
    bench = Bench("a")
    bench.frame("a", 5000)
    assert not bench.frame("a", 4600, 4600)
    assert bench.matcher.counts["restarts"] == 0


def test_the_newest_lead_frame_wins_and_the_others_are_handed_on() -> None:
    bench = Bench("a", "b")
    for ms in (0, 33, 66):
        bench.frame("a", ms, 70)
        bench.frame("b", ms + 2, 70)
    match = bench.match(70)
    assert match is not None
    assert match.frames["a"].stamp_ns == T0 + 66 * MS
    passed = [(name, (f.stamp_ns - T0) // MS) for name, f in match.passed]
    assert passed == [("a", 0), ("b", 2), ("a", 33), ("b", 35)]
    assert bench.matcher.counts["skipped"] == 2


def test_skew_and_lag_are_medians() -> None:
    bench = Bench("a", "b", needs_state=True, wait_s=1)
    for k in range(20):
        bench.frame("a", 100 * k, 100 * k + 30)
        bench.frame("b", 100 * k + 7, 100 * k + 31)
        bench.state(100 * k, 100 * k + (31 if k % 5 else 90))  # one in five is late
        assert bench.match(100 * k + 90) is not None
    assert bench.matcher.skew_ns("b") == 7 * MS
    assert bench.matcher.skew_ns("a") == 0
    assert bench.matcher.lag_ns("a") == 30 * MS
    assert bench.matcher.lag_ns("state") == 31 * MS
    assert Bench("a").matcher.lag_ns("a") is None


def test_a_mailbox_of_matches_loses_no_frame() -> None:
    bench = Bench("a", "b", wait_s=0)
    mailbox: Mailbox[Matched] = Mailbox(merge)
    for ms in range(0, 300, 30):
        bench.frame("a", ms)
        if ms % 60 == 0:
            bench.frame("b", ms)
        if match := bench.match(ms):
            mailbox.put(match)
    taken = mailbox.take(0)
    assert taken is not None
    delivered = [(name, f.stamp_ns) for name, f in (*taken.passed, *taken.frames.items())]
    assert sorted(delivered) == sorted(
        [("a", T0 + ms * MS) for ms in range(0, 300, 30)] + [("b", T0 + ms * MS) for ms in range(0, 300, 60)]
    )
    for camera in ("a", "b"):
        of_one = [stamp for name, stamp in delivered if name == camera]
        assert of_one == sorted(of_one)


def test_what_a_stuck_model_has_to_catch_up_on_is_bounded() -> None:
    matched = Matched({"a": frame(0)}, None)
    for ms in range(1, 200):
        matched = merge(matched, Matched({"a": frame(ms)}, None))
    assert len(matched.passed) == PASSED_KEPT
    assert matched.passed[-1][1].stamp_ns == T0 + 198 * MS


def test_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ContractError, match="lidar"):
        Bench("a").frame("lidar", 0)
    with pytest.raises(ContractError, match="distinct"):
        Bench("a", "a")
    with pytest.raises(StampError):
        Bench("a").matcher.add_frame("a", Stamped(frame(0).value, 0.5), T0, 0)  # type: ignore[arg-type]


@given(st.data())
def test_every_observation_is_what_a_recording_would_give(data: st.DataObject) -> None:
    """Cameras at 30 and 20 Hz and a state at 50 Hz with jitter, drops and delays; oracle: all stamps at once."""
    rates = {"a": 33, "b": 50, "state": 20}
    arrivals: list[tuple[float, str, float]] = []
    for source, period in rates.items():
        for k in range(500 // period):
            jitter, delay, keep = data.draw(st.tuples(st.integers(-8, 8), st.integers(0, 15), st.integers(0, 9)))
            if keep:
                arrivals.append((100 + k * period + jitter + delay, source, 100 + k * period + jitter))
    bench = Bench("a", "b", needs_state=True, wait_s=1.0)  # long enough to know everything
    results: list[Matched] = []
    admitted: dict[str, list[float]] = {source: [] for source in rates}
    for now, source, stamp in sorted(arrivals):
        taken = bench.state(stamp, now) if source == "state" else bench.frame(source, stamp, now)
        assert taken or bench.matcher.counts[f"{source}.late"], "only overtaken values are dropped"
        if taken:
            admitted[source].append(stamp)
        if matched := bench.match(now):
            results.append(matched)
    leads = [matched.frames["a"].stamp_ns for matched in results]
    assert leads == sorted(set(leads))
    for matched in results:
        lead, other = ((matched.frames[name].stamp_ns - T0) / MS for name in ("a", "b"))
        assert abs(other - lead) == min(abs(stamp - lead) for stamp in admitted["b"])
        assert abs(other - lead) <= 50
        assert matched.state is not None
        assert float(matched.state.value[0]) == (matched.state.stamp_ns - T0) / MS <= lead
    counts = bench.matcher.counts
    assert counts["matched"] == len(results)
    assert counts["matched"] + counts["skipped"] + counts["a.unmatched"] <= len(admitted["a"])
