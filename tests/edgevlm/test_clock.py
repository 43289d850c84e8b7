"""When a clock has restarted, and time since the last command: steady on the system's clock, data in a simulation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gate_bench import Bench

from edgevlm.clock import ClockRules, ControlClock, DataClock, Elapsed, even, restarted
from edgevlm.loop.matching import Matcher, MatchSpec

MS = 1_000_000
RULES: dict[str, Any] = {"period_ns": 20 * MS, "valid_ns": 100 * MS, "deadline_ns": 300 * MS, "reset_after_ns": 10**9}
RULES["state_age_ns"] = 200 * MS


class Clock:
    """A gate's clock with a command at data time 1 s and steady time 7 s."""

    def __init__(self, source: Any) -> None:
        self.clock = ControlClock(ClockRules(source=source, **RULES))
        self.ros_ns, self.steady_ns = 1000 * MS, 7000 * MS
        self.after(0, 0)
        self.clock.commanded(self.ros_ns, self.steady_ns)

    def after(self, data_ms: float, steady_ms: float) -> Elapsed | None:
        self.ros_ns += round(data_ms * MS)
        self.steady_ns += round(steady_ms * MS)
        self.clock.read(self.ros_ns)
        return self.clock.elapsed(self.ros_ns, self.steady_ns, moving=True)


@pytest.mark.parametrize(
    ("data_ms", "steady_ms", "elapsed", "jumped"),
    [
        (20, 20, even(0.02), False),
        (99, 20, even(0.02), False),  # a step ahead that looks like a late command
        (20, 99, Elapsed(0.099, 0.02), False),  # a step back that looks like one in time
        (5, 20, Elapsed(0.02, 0.005), False),
        (0, 20, even(0.02), True),  # it stands
        (-1, 20, even(0.02), True),
        (101, 20, even(0.02), True),
        (3_600_000, 20, even(0.02), True),
        (-3_600_000, 20, even(0.02), True),
        (0, 1, Elapsed(0.001, 0.0), False),  # asked again at once: no fault yet
        (150, 150, None, False),  # the robot is at rest
        (20, 150, None, True),
    ],
)
def test_the_system_s_clock(data_ms: float, steady_ms: float, elapsed: Elapsed | None, jumped: bool) -> None:
    clock = Clock("system")
    assert clock.after(data_ms, steady_ms) == elapsed
    assert (clock.clock.jumped, clock.clock.stopped) == (jumped, False)


@pytest.mark.parametrize(
    ("data_ms", "steady_ms", "elapsed", "jumped"),
    [
        (20, 20, even(0.02), False),
        (20, 0.2, even(0.02), False),  # a hundred times as fast
        (20, 299, even(0.02), False),
        (0, 299, even(0.0), False),
        (-1, 20, even(0.02), True),
        (101, 20, even(0.02), True),
        (101, 150, None, False),
    ],
)
def test_a_simulation_s_clock(data_ms: float, steady_ms: float, elapsed: Elapsed | None, jumped: bool) -> None:
    clock = Clock("simulated")
    assert clock.after(data_ms, steady_ms) == elapsed
    assert clock.clock.jumped == jumped


def test_a_simulation_that_stopped_moves_nothing_and_brakes_by_steady_time() -> None:
    clock = Clock("simulated")
    clock.after(0, 300)
    assert not clock.clock.stopped
    assert clock.after(0, 1) == Elapsed(0.0, 0.02)
    assert clock.clock.stopped
    clock.clock.commanded(clock.ros_ns, clock.steady_ns)
    assert clock.after(0, 15) == Elapsed(0.0, 0.015)
    clock.clock.commanded(clock.ros_ns, clock.steady_ns)
    assert clock.after(10, 20) == even(0.01)
    assert not clock.clock.stopped


def test_a_state_is_as_old_as_it_can_be_where_the_clock_stepped_on_its_way() -> None:
    clock = Clock("system")
    assert clock.clock.sensed_ns(clock.ros_ns - 50 * MS, clock.ros_ns, clock.steady_ns) == clock.steady_ns - 50 * MS
    clock.after(5, 20)  # 15 ms back
    assert clock.clock.sensed_ns(clock.ros_ns, clock.ros_ns, clock.steady_ns) == clock.steady_ns - 15 * MS
    for _ in range(12):
        clock.clock.commanded(clock.ros_ns, clock.steady_ns)
        clock.after(20, 20)
    assert clock.clock.sensed_ns(clock.ros_ns, clock.ros_ns, clock.steady_ns) == clock.steady_ns, "long ago"
    ahead = clock.ros_ns + 5 * MS
    assert clock.clock.sensed_ns(ahead, clock.ros_ns, clock.steady_ns) == clock.steady_ns, "nothing is sensed later"


def test_steps_back_within_a_second_are_waited_for_and_further_ones_are_restarts() -> None:
    clock = Clock("system").clock
    assert clock.now_ns == 1000 * MS
    assert not clock.read(1 * MS)
    assert clock.now_ns == 1000 * MS
    assert clock.read(-1 * MS)
    assert clock.now_ns == -1 * MS


@given(
    source=st.sampled_from(["system", "simulated"]),
    steps=st.lists(st.tuples(st.integers(-(10**9) * 2, 10**9 * 2), st.integers(0, 10**9), st.booleans()), max_size=30),
)
def test_no_time_is_negative_and_the_system_s_is_steady(source: Any, steps: list[tuple[int, int, bool]]) -> None:
    clock = Clock(source)
    commanded_ns = clock.steady_ns
    for data_ns, steady_ns, commands in steps:
        elapsed = clock.after(data_ns / MS, steady_ns / MS)
        if elapsed is not None:
            assert min(elapsed) >= 0
        if elapsed is not None and source == "system":
            assert elapsed.move_s == (clock.steady_ns - commanded_ns) / 1e9 <= 0.1
            assert elapsed.change_s <= elapsed.move_s
        if commands:
            clock.clock.commanded(clock.ros_ns, clock.steady_ns)
            commanded_ns = clock.steady_ns


@given(st.lists(st.integers(-8, 8), max_size=40), st.integers(1, 6))
def test_data_time_goes_back_only_by_a_restart_and_restarts_only_when_it_is_far_back(
    readings: list[int], reset_after_ns: int
) -> None:
    clock = DataClock(reset_after_ns)
    since: list[int] = []  # readings of the clock as it runs now
    for reading in readings:
        far_back = any(reading + reset_after_ns < earlier for earlier in since)
        assert restarted(reading, max(since, default=None), reset_after_ns) is far_back
        assert clock.read(reading) is far_back
        since = [reading] if far_back else [*since, reading]
        assert clock.now_ns == max(since)


@given(st.lists(st.tuples(st.integers(-3000, 3000), st.integers(0, 400)), min_size=1, max_size=30))
def test_loop_and_gate_begin_anew_at_the_same_reading(steps: list[tuple[int, int]]) -> None:
    spec = MatchSpec(
        tolerance_s=0.05, state_tolerance_s=0.1, max_age_s=1.0, wait_s=0.02, future_s=0.1, reset_after_s=1.0
    )
    matcher = Matcher(["top"], spec, needs_state=False)
    gate = Bench(reset_after_s=1.0).gate
    data = DataClock(10**9)
    data_ns = steady_ns = 10**13
    restarts = 0
    for data_ms, steady_ms in steps:
        data_ns, steady_ns = data_ns + data_ms * MS, steady_ns + steady_ms * MS
        restarts += data.read(data_ns)
        matcher.match(data_ns, steady_ns)
        gate.command(data_ns, steady_ns)
        assert matcher.counts["restarts"] == gate.counts["clock.restarts"] == restarts
