"""Which command the simulated robot executes: properties over whatever may come in from the wire."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgevlm.manifest.contract import SECOND_NS
from edgevlm_tabletop.ros.pace import Commands, DataTime, Ticker

STEP_S, VALID_S = 0.025, 0.1
VALID_NS = round(VALID_S * SECOND_NS)
BEGIN_NS = 5 * SECOND_NS

instants = st.integers(BEGIN_NS - SECOND_NS, BEGIN_NS + SECOND_NS)
numbers = st.one_of(st.floats(-0.4, 0.4), st.floats(allow_nan=True, allow_infinity=True))
arrivals = st.lists(
    st.tuples(st.sampled_from(["twist", "gripper"]), st.integers(0, SECOND_NS), instants, numbers), max_size=40
)


def begun() -> Commands:
    commands = Commands(STEP_S, VALID_S)
    commands.begin(BEGIN_NS)
    return commands


def take(commands: Commands, kind: str, value: float, stamp_ns: int, now_ns: int) -> str:
    if kind == "twist":
        return commands.twist((value, 0.0, -0.01), stamp_ns, now_ns)
    return commands.gripper([value], stamp_ns, now_ns)


@given(arrivals)
def test_what_is_executed_is_finite_of_this_episode_and_never_past_its_validity(
    sent: list[tuple[str, int, int, float]],
) -> None:
    commands, now_ns = begun(), BEGIN_NS
    taken: dict[str, list[int]] = {"twist": [], "gripper": []}
    for kind, elapsed_ns, stamp_ns, value in sent:
        now_ns += elapsed_ns
        if take(commands, kind, value, stamp_ns, now_ns) == "taken":
            assert BEGIN_NS <= stamp_ns <= now_ns + VALID_NS
            assert all(stamp_ns >= earlier_ns for earlier_ns in taken[kind])
            taken[kind].append(stamp_ns)
        action = commands.due(now_ns)
        if action is not None:
            assert np.isfinite(action).all()
            assert all(now_ns - stamps[-1] <= VALID_NS for stamps in taken.values())
        else:
            assert any(not stamps or now_ns - stamps[-1] > VALID_NS for stamps in taken.values())
    assert sum(commands.counts.values()) == len(sent)
    assert commands.dropped == len(sent) - sum(map(len, taken.values()))


@given(st.lists(st.floats(-0.0078125, 0.0078125, width=32), min_size=3, max_size=3), st.floats(-1, 1, width=32))
def test_the_velocity_of_a_row_gives_the_row_back_to_the_last_bit(delta: list[float], gripper: float) -> None:
    commands = begun()
    commands.twist([value / STEP_S for value in delta], BEGIN_NS, BEGIN_NS)
    commands.gripper([gripper], BEGIN_NS, BEGIN_NS)
    action = commands.at(BEGIN_NS)
    assert action is not None and action.dtype == np.float32
    np.testing.assert_array_equal(action, np.array([*delta, gripper], np.float32))


@given(instants, instants)
def test_in_lock_step_only_two_parts_of_exactly_this_stamp_count(first_ns: int, second_ns: int) -> None:
    commands = begun()
    commands.twist((0.1, 0.0, 0.0), first_ns, first_ns)
    commands.gripper([0.5], second_ns, second_ns)
    full = first_ns == second_ns and first_ns >= BEGIN_NS
    assert (commands.at(first_ns) is not None) == full
    assert commands.at(first_ns + 1) is None


def test_before_the_first_reset_and_after_the_end_commands_are_dropped_and_counted() -> None:
    commands = Commands(STEP_S, VALID_S)
    assert take(commands, "twist", 0.1, BEGIN_NS, BEGIN_NS) == "idle"
    commands.begin(BEGIN_NS)
    assert take(commands, "twist", 0.1, BEGIN_NS - 1, BEGIN_NS) == "before_reset"
    assert take(commands, "twist", 0.1, BEGIN_NS, BEGIN_NS) == "taken"
    assert take(commands, "gripper", 0.1, BEGIN_NS, BEGIN_NS) == "taken"
    assert commands.due(BEGIN_NS) is not None
    commands.end()
    assert commands.due(BEGIN_NS) is None
    assert take(commands, "twist", 0.1, BEGIN_NS, BEGIN_NS) == "idle"


def test_a_gripper_command_is_one_number_and_not_beyond_float32() -> None:
    commands = begun()
    assert commands.gripper([], BEGIN_NS, BEGIN_NS) == "not_finite"
    assert commands.gripper([0.1, 0.2], BEGIN_NS, BEGIN_NS) == "not_finite"
    assert commands.twist((1e300, 0.0, 0.0), BEGIN_NS, BEGIN_NS) == "not_finite"
    assert commands.twist((math.nan, 0.0, 0.0), BEGIN_NS, BEGIN_NS) == "not_finite"


@given(st.lists(st.integers(0, 100_000_000), min_size=1, max_size=60))
def test_deadlines_are_a_period_apart_and_no_burst_follows_a_delay(delays_ns: list[int]) -> None:
    period_ns, now_ns = 25_000_000, 0
    ticker, last_ns = Ticker(period_ns, now_ns), 0
    for delay_ns in delays_ns:
        now_ns = max(now_ns, last_ns) + delay_ns
        deadline_ns = ticker.following(now_ns)
        assert deadline_ns == last_ns + period_ns or deadline_ns == now_ns
        assert deadline_ns >= now_ns - period_ns, "one step late at most"
        last_ns = deadline_ns


def test_data_time_is_ros_time_in_real_time_and_counted_otherwise() -> None:
    real, counted = DataTime("real_time", SECOND_NS), DataTime("lock_step", SECOND_NS)
    for time in (real, counted):
        time.go_on(25_000_000)
    assert real.now_ns(77) == 77
    assert counted.now_ns(77) == SECOND_NS + 25_000_000
