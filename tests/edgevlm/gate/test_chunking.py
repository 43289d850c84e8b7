"""Chunk execution: every command is a row of a live chunk, whatever the arrival times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rotations import FORMS, Form, angle_between, matrix, quaternion_of

from edgevlm.errors import SessionError, StampError
from edgevlm.gate.chunking import (
    Command,
    ConsumptionIndexed,
    Executor,
    LatestChunk,
    NoCommand,
    RecedingHorizon,
    TemporalEnsemble,
)
from edgevlm.gate.rotation import Geometry, numbers
from edgevlm.manifest.contract import ActionChunk

STEP_NS = 10_000_000
CORES: dict[str, Callable[[], Executor]] = {
    "newest": LatestChunk,
    "ensembled": lambda: TemporalEnsemble(0.1),
    "handed_over": ConsumptionIndexed,
    "receding_newest": lambda: RecedingHorizon(LatestChunk(), 2),
    "receding_handed_over": lambda: RecedingHorizon(ConsumptionIndexed(), 3),
}


def chunk(observed_ns: int, rows: int = 8, *, first: float = 0.0, valid_rows: int | None = None) -> ActionChunk:
    """Row i is (first + i, -(first + i)); valid as long as its rows last unless said otherwise."""
    column = np.arange(rows, dtype=np.float32) + np.float32(first)
    return ActionChunk(
        values=np.stack([column, -column], axis=1),
        names=("a", "b"),
        units=("rad", "rad"),
        step_s=STEP_NS / 1e9,
        observed_ns=observed_ns,
        valid_until_ns=observed_ns + (rows if valid_rows is None else valid_rows) * STEP_NS,
        sequence=observed_ns,
    )


def feed(executor: Executor, action_chunk: ActionChunk, stamp_ns: int) -> bool:
    executor.observed(action_chunk.observed_ns, stamp_ns)
    return executor.offer(action_chunk, stamp_ns)


def reasons(outcomes: list[Command | NoCommand]) -> list[str]:
    return [outcome.reason if isinstance(outcome, NoCommand) else "row" for outcome in outcomes]


@pytest.mark.parametrize("make", CORES.values(), ids=CORES)
def test_without_a_chunk_there_is_no_command(make: Callable[[], Executor]) -> None:
    executor = make()
    assert executor.command(0) == NoCommand("no_chunk", 0)
    assert executor.wants_chunk(0)


@pytest.mark.parametrize("make", CORES.values(), ids=CORES)
def test_rows_come_in_order_and_then_it_is_spent(make: Callable[[], Executor]) -> None:
    executor = make()
    feed(executor, chunk(0, rows=4, valid_rows=10), 0)
    outcomes = [executor.command(i * STEP_NS) for i in range(6)]
    assert [float(o.values[0]) for o in outcomes if isinstance(o, Command)] == [0, 1, 2, 3]
    assert reasons(outcomes) == ["row"] * 4 + ["spent"] * 2


@pytest.mark.parametrize("make", CORES.values(), ids=CORES)
def test_nothing_is_executed_after_it_expired(make: Callable[[], Executor]) -> None:
    executor = make()
    feed(executor, chunk(0, valid_rows=2), 0)
    outcomes = [executor.command(i * STEP_NS) for i in range(4)]
    assert reasons(outcomes) == ["row", "row", "row", "expired"]
    assert executor.wants_chunk(3 * STEP_NS)


@pytest.mark.parametrize("make", CORES.values(), ids=CORES)
def test_a_chunk_that_expired_on_the_way_is_dropped(make: Callable[[], Executor]) -> None:
    executor = make()
    executor.observed(0, 0)
    assert not executor.offer(chunk(0, valid_rows=2), 3 * STEP_NS)
    assert isinstance(executor.command(3 * STEP_NS), NoCommand)


@pytest.mark.parametrize("make", CORES.values(), ids=CORES)
@pytest.mark.parametrize("call", ["observed", "offer", "command"])
def test_time_that_goes_back_is_refused_until_reset(make: Callable[[], Executor], call: str) -> None:
    executor = make()
    feed(executor, chunk(5 * STEP_NS), 5 * STEP_NS)
    executor.command(6 * STEP_NS)
    calls: dict[str, Callable[[], object]] = {
        "observed": lambda: executor.observed(0, 6 * STEP_NS - 1),
        "offer": lambda: executor.offer(chunk(5 * STEP_NS), 6 * STEP_NS - 1),
        "command": lambda: executor.command(6 * STEP_NS - 1),
    }
    with pytest.raises(StampError, match="at least 60000000 ns, got 59999999 ns"):
        calls[call]()
    executor.reset()
    assert executor.command(0) == NoCommand("no_chunk", 0)


@pytest.mark.parametrize("make", CORES.values(), ids=CORES)
def test_a_command_is_a_copy(make: Callable[[], Executor]) -> None:
    executor = make()
    action_chunk = chunk(0)
    feed(executor, action_chunk, 0)
    outcome = executor.command(0)
    assert isinstance(outcome, Command)
    outcome.values[:] = 99
    assert action_chunk.values.max() < 99


def test_rows_go_by_the_nearest_stamp() -> None:
    executor = LatestChunk()
    executor.offer(chunk(0), 0)
    stamps = [0, STEP_NS // 2 - 1, STEP_NS // 2, STEP_NS + 3_000_000, 2 * STEP_NS - 3_000_000]
    rows = [outcome.row for stamp in stamps if isinstance(outcome := executor.command(stamp), Command)]
    assert rows == [0, 0, 1, 1, 2]


def test_a_chunk_of_the_future_waits() -> None:
    executor = LatestChunk()
    executor.offer(chunk(10 * STEP_NS), 0)
    assert executor.command(0) == NoCommand("early", 0)
    assert isinstance(executor.command(10 * STEP_NS), Command)


def test_an_overtaken_chunk_does_not_replace_a_newer_one() -> None:
    executor = LatestChunk()
    assert executor.offer(chunk(2 * STEP_NS, first=2), 3 * STEP_NS)
    assert not executor.offer(chunk(0), 3 * STEP_NS)
    outcome = executor.command(3 * STEP_NS)
    assert isinstance(outcome, Command) and outcome.observed_ns == 2 * STEP_NS
    assert executor.late_chunks == 1


def test_receding_asks_after_execute_steps_and_goes_on_until_it_is_answered() -> None:
    executor = RecedingHorizon(LatestChunk(), 3)
    executor.offer(chunk(0), 0)
    assert [executor.wants_chunk(i * STEP_NS) for i in range(5)] == [False, False, False, True, True]
    outcome = executor.command(4 * STEP_NS)
    assert isinstance(outcome, Command) and outcome.row == 4
    executor.offer(chunk(3 * STEP_NS), 4 * STEP_NS)
    assert not executor.wants_chunk(5 * STEP_NS)
    assert executor.wants_chunk(6 * STEP_NS)


@pytest.mark.parametrize("steps", [0, -1])
def test_receding_needs_a_step(steps: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RecedingHorizon(LatestChunk(), steps)


@pytest.mark.parametrize("decay", [-0.1, float("nan"), float("inf")])
def test_ensembling_refuses_a_decay_that_is_none(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        TemporalEnsemble(decay)


def test_ensembling_weighs_the_oldest_most() -> None:
    """ACT's algorithm 2 by hand: weights exp(-m i), i = 0 the oldest."""
    executor = TemporalEnsemble(0.5)
    for i in range(3):
        executor.offer(chunk(i * STEP_NS, first=10.0 * i), i * STEP_NS)
    outcome = executor.command(2 * STEP_NS)
    weights = np.exp(-0.5 * np.arange(3))
    rows = np.array([2.0, 11.0, 20.0])  # row 2 of the oldest, 1 of the next, 0 of the newest
    assert isinstance(outcome, Command)
    assert outcome.values[0] == pytest.approx(float(weights @ rows / weights.sum()), rel=1e-6)
    assert (outcome.observed_ns, outcome.row) == (2 * STEP_NS, 0)


def test_ensembling_leaves_out_what_expired() -> None:
    executor = TemporalEnsemble(0.0)
    executor.offer(chunk(0, valid_rows=1), 0)
    executor.offer(chunk(STEP_NS, first=50.0), STEP_NS)
    both, alone = executor.command(STEP_NS), executor.command(2 * STEP_NS)
    assert isinstance(both, Command) and both.values[0] == pytest.approx((1.0 + 50.0) / 2)
    assert isinstance(alone, Command) and alone.values[0] == 51.0


def test_a_hand_over_skips_what_was_consumed_and_no_more() -> None:
    executor = ConsumptionIndexed()
    feed(executor, chunk(0), 0)
    for i in range(2):
        executor.command(i * STEP_NS)
    executor.observed(2 * STEP_NS, 2 * STEP_NS)
    for i in range(2, 5):  # three rows are consumed while the model works
        executor.command(i * STEP_NS)
    executor.offer(chunk(2 * STEP_NS, first=2), 5 * STEP_NS)
    outcome = executor.command(5 * STEP_NS)
    assert isinstance(outcome, Command) and outcome.row == 3 and outcome.values[0] == 5.0


def test_a_hand_over_does_not_count_the_first_inference() -> None:
    executor = ConsumptionIndexed()
    executor.observed(0, 0)
    assert reasons([executor.command(i * STEP_NS) for i in range(4)]) == ["no_chunk"] * 4
    executor.offer(chunk(0, valid_rows=50), 4 * STEP_NS)
    outcome = executor.command(4 * STEP_NS)
    assert isinstance(outcome, Command) and outcome.row == 0


def test_a_hand_over_needs_the_observation_announced() -> None:
    with pytest.raises(SessionError, match="call observed"):
        ConsumptionIndexed().offer(chunk(0), 0)


def test_the_leftover_is_never_padded() -> None:
    executor = ConsumptionIndexed()
    assert executor.leftover(0) is None
    feed(executor, chunk(0, rows=4), 0)
    lengths = []
    for i in range(4):
        leftover = executor.leftover(i * STEP_NS)
        assert leftover is not None and leftover[0, 0] == i
        lengths.append(len(leftover))
        executor.command(i * STEP_NS)
    assert lengths == [4, 3, 2, 1]
    assert executor.leftover(4 * STEP_NS) is None


@dataclass(frozen=True)
class Tick:
    """One control step: how long after the last one, whether the model is asked, and how many ticks it then takes."""

    gap_ns: int
    ask: bool
    latency: int


TICKS = st.lists(
    st.builds(
        Tick,
        gap_ns=st.integers(min_value=0, max_value=4 * STEP_NS),
        ask=st.booleans(),
        latency=st.integers(min_value=0, max_value=12),
    ),
    min_size=1,
    max_size=60,
)


def drive(
    executor: Executor, ticks: list[Tick], rows: int, valid_rows: int, first: Callable[[], float]
) -> tuple[list[ActionChunk], list[Command | NoCommand]]:
    """Chunks arrive as late, and in whatever order, as the ticks say; what was offered and what came out."""
    arriving: list[tuple[int, ActionChunk]] = []
    offered: list[ActionChunk] = []
    outcomes: list[Command | NoCommand] = []
    now_ns = 1_000_000
    for i, tick in enumerate(ticks):
        now_ns += tick.gap_ns
        if tick.ask and all(known.observed_ns != now_ns for _, known in arriving):
            executor.observed(now_ns, now_ns)
            arriving.append((i + tick.latency, chunk(now_ns, rows, first=first(), valid_rows=valid_rows)))
        for due, new in arriving:
            if due == i:
                offered.append(new)
                executor.offer(new, now_ns)
        outcomes.append(executor.command(now_ns))
    return offered, outcomes


@pytest.mark.parametrize("make", CORES.values(), ids=CORES)
@given(ticks=TICKS, rows=st.integers(1, 8), valid_rows=st.integers(0, 12))
def test_every_command_lies_among_the_rows_of_live_chunks(
    make: Callable[[], Executor], ticks: list[Tick], rows: int, valid_rows: int
) -> None:
    counter = iter(range(1000, 100_000, 100))  # no chunk has a row of zeros
    offered, outcomes = drive(make(), ticks, rows, valid_rows, lambda: float(next(counter)))
    for outcome in outcomes:
        if isinstance(outcome, NoCommand):
            continue
        live = [known for known in offered if outcome.stamp_ns <= known.valid_until_ns]
        by_stamp = {known.sequence: known for known in live}
        assert outcome.sequence in by_stamp
        table = np.concatenate([known.values for known in live])  # (n, 2)
        assert table[:, 0].min() <= outcome.values[0] <= table[:, 0].max()
        assert outcome.values[0] == pytest.approx(-outcome.values[1])


@pytest.mark.parametrize("make", [LatestChunk, ConsumptionIndexed])
@given(ticks=TICKS, rows=st.integers(1, 8), valid_rows=st.integers(0, 12))
def test_every_command_of_a_single_chunk_is_exactly_the_row_it_names(
    make: Callable[[], Executor], ticks: list[Tick], rows: int, valid_rows: int
) -> None:
    counter = iter(range(1000, 100_000, 100))
    offered, outcomes = drive(make(), ticks, rows, valid_rows, lambda: float(next(counter)))
    by_sequence = {known.sequence: known for known in offered}
    last: tuple[int, int] = (-1, -1)
    for outcome in outcomes:
        if isinstance(outcome, Command):
            source = by_sequence[outcome.sequence]
            assert np.array_equal(outcome.values, source.values[outcome.row])
            assert outcome.stamp_ns <= source.valid_until_ns
            assert (outcome.observed_ns, outcome.row) >= last  # chunks and their rows come in order
            last = (outcome.observed_ns, outcome.row)


@given(ticks=TICKS, rows=st.integers(1, 8))
def test_a_hand_over_never_repeats_or_skips_a_row(ticks: list[Tick], rows: int) -> None:
    """Each chunk counts on from what was consumed when it was asked for: the commands must be 0, 1, 2, ..."""
    executor = ConsumptionIndexed()
    _, outcomes = drive(executor, ticks, rows, 10_000, lambda: float(executor.consumed))
    values = [float(outcome.values[0]) for outcome in outcomes if isinstance(outcome, Command)]
    assert values == [float(i) for i in range(len(values))]


@given(ticks=TICKS)
def test_ensembled_equals_the_weighted_mean_of_its_rows(ticks: list[Tick]) -> None:
    counter = iter(range(1000, 100_000, 100))
    decay, offered = 0.2, []
    executor = TemporalEnsemble(decay)
    now_ns = 0
    for tick in ticks:
        now_ns += tick.gap_ns
        if tick.ask and executor.offer(new := chunk(now_ns, first=float(next(counter))), now_ns):
            offered.append(new)
        rows = [(now_ns - c.observed_ns + STEP_NS // 2) // STEP_NS for c in offered]
        used = [
            float(c.values[row, 0])
            for c, row in zip(offered, rows, strict=True)
            if now_ns <= c.valid_until_ns and row < len(c.values)
        ]
        outcome = executor.command(now_ns)
        if not used:
            assert isinstance(outcome, NoCommand)
            continue
        weights = np.exp(-decay * np.arange(len(used)))
        assert isinstance(outcome, Command)
        assert outcome.values[0] == pytest.approx(float(weights @ np.array(used) / weights.sum()), rel=1e-6)


def turning_chunk(observed_ns: int, numbers: Sequence[float]) -> ActionChunk:
    """Eight equal rows of one orientation, and one angle."""
    values = np.tile(np.array(numbers, np.float32), (8, 1))
    names = tuple(f"r{i}" for i in range(len(numbers)))
    return replace(chunk(observed_ns), values=values, names=names, units=("1",) * len(numbers))


@pytest.mark.parametrize("form", FORMS)
@given(
    vectors=st.lists(st.tuples(*[st.floats(-0.4, 0.4)] * 3), min_size=2, max_size=4),
    base=st.tuples(*[st.floats(-3.0, 3.0)] * 3),
    flips=st.integers(0, 15),
)
def test_orientations_are_averaged_as_rotations(
    form: Form, vectors: list[tuple[float, ...]], base: tuple[float, ...], flips: int
) -> None:
    """Against the rotation nearest to the weighted sum of matrices; numbers a whole turn apart are no difference."""
    executor = RecedingHorizon(TemporalEnsemble(0.3), 4)
    executor.set_geometry(Geometry(((form, tuple(range(4 if form == "quaternion_xyzw" else 3))),), ()))
    around, summed = matrix("rotation_vector", base), np.zeros((3, 3))
    for k, vector in enumerate(vectors):
        q = quaternion_of(matrix("rotation_vector", vector) @ around)
        sign = -1.0 if flips >> k & 1 else 1.0
        x, y, z, w = q * sign
        sent = numbers(form, (x, y, z, w), (x, y, z, w))
        assert executor.offer(turning_chunk(k, sent), 10)
        summed += np.exp(-0.3 * k) * matrix(form, sent)
    command = executor.command(10)
    assert isinstance(command, Command)
    u, _, vt = np.linalg.svd(summed)
    mean = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    assert angle_between(matrix(form, command.values.tolist()), mean) < 1e-3  # chunks are float32


def test_q_and_minus_q_do_not_turn_the_hand() -> None:
    executor = TemporalEnsemble()
    executor.set_geometry(Geometry((("quaternion_xyzw", (0, 1, 2, 3)),), ()))
    q = [0.0, 0.0, np.sin(0.05), np.cos(0.05)]
    executor.offer(turning_chunk(0, q), 10)
    executor.offer(turning_chunk(1, [-part for part in q]), 10)
    command = executor.command(10)
    assert isinstance(command, Command)
    np.testing.assert_allclose(command.values, [-part for part in q], atol=1e-6)


def test_a_joint_without_ends_is_averaged_the_shorter_way() -> None:
    executor = TemporalEnsemble(0.0)
    executor.set_geometry(Geometry((), ((0, 2 * np.pi),)))
    executor.offer(turning_chunk(0, [3.1, 3.1]), 10)
    executor.offer(turning_chunk(1, [-3.1, -3.1]), 10)
    command = executor.command(10)
    assert isinstance(command, Command)
    assert command.values.tolist() == pytest.approx([-np.pi, 0.0], abs=1e-6)
