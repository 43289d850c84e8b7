"""Whatever chunks, states, times and drops: no command of the gate breaks a limit. Judged by code that knows no gate.

EDGEVLM_GATE_CHUNKS says how many random chunks to try (10^6 in the soak).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import gate_judge
from support.gate_judge import Judge, S

from edgevlm.gate.chunking import ConsumptionIndexed, Executor, LatestChunk, RecedingHorizon, TemporalEnsemble
from edgevlm.gate.gate import Gate, GateCommand
from edgevlm.gate.limits import GateLimits
from edgevlm.manifest.contract import Stamped

CHUNKS = int(os.environ.get("EDGEVLM_GATE_CHUNKS", "100000"))
BLOCK = 5000  # chunks of one robot; then another one with other luck
EXECUTORS: dict[str, Callable[[], Executor]] = {
    "newest": LatestChunk,
    "ensembled": lambda: TemporalEnsemble(0.1),
    "handed_over": ConsumptionIndexed,
    "receding": lambda: RecedingHorizon(LatestChunk(), 4),
}
GAPS_NS = np.array([0, 1, 15, 20, 20, 20, 20, 20, 25, 60, 70, 71, 400], np.int64) * 1_000_000


class Bench:
    """A gate, a judge, and a robot that follows with a lag, all on two clocks."""

    def __init__(self, executor: Executor, **more: Any) -> None:
        self.gate = Gate(gate_judge.arm(), GateLimits(**{**gate_judge.limits(), **more}), executor)
        self.judge = Judge()
        self.ros_ns, self.steady_ns, self.sequence = 100 * S, 7 * S, 0
        self.robot = np.zeros(4)
        self.observed_ns = [self.ros_ns]

    def wait(self, gap_ns: int) -> None:
        self.ros_ns += gap_ns
        self.steady_ns += gap_ns

    def observe(self, announced: bool = True) -> None:
        self.observed_ns = [*self.observed_ns[-2:], self.ros_ns]
        self.judge.time_is(self.ros_ns)
        self.gate.heartbeat(self.ros_ns, self.steady_ns, self.ros_ns if announced else None)

    def chunk(self, values: NDArray[Any], observed_ns: int) -> None:
        self.sequence += 1
        chunk = gate_judge.chunk(values, observed_ns, self.sequence)
        self.judge.chunk(chunk)
        self.judge.time_is(self.ros_ns)
        self.gate.feed(chunk, self.ros_ns, self.steady_ns)

    def state(self, values: NDArray[Any], age_ns: int = 0) -> None:
        measured = values.astype(np.float32)
        self.judge.time_is(self.ros_ns)
        if self.gate.feed_state(Stamped(measured, self.ros_ns - age_ns), self.ros_ns) is None:
            self.judge.state(measured.tolist())

    def command(self) -> GateCommand:
        command = self.gate.command(self.ros_ns, self.steady_ns)
        self.judge.command(command, self.ros_ns, self.steady_ns)
        if command.values is not None:
            self.robot[1] += 0.7 * (command.values[0] - self.robot[1])
            self.robot[3] += 0.7 * (command.values[2] - self.robot[3])
            self.robot[0] += 0.02 * command.values[1]
        return command


def disturb(bench: Bench, luck: list[float], push: float) -> None:
    """What may go wrong between two chunks, each with a chance of its own."""
    if luck[0] < 0.01:
        bench.gate.estop(True)
    elif luck[0] < 0.3:
        bench.gate.estop(False)
        bench.gate.rearm()
    if luck[1] < 0.97:
        bench.observe(announced=luck[2] < 0.9)
    if luck[3] < 0.005:
        bench.ros_ns += int((luck[4] - 0.5) * 24 * S)
    if luck[5] < 0.01:
        bench.robot = bench.robot + push if luck[4] < 0.5 else np.zeros(4)
    if luck[6] > 0.99:
        bench.gate.conflict(["somewhere"] if luck[4] < 0.3 else [])
    if luck[6] < 0.01:
        bench.state(np.where(np.array(luck[:4]) < 0.5, np.nan, bench.robot))


def live_through(bench: Bench, seed: int, chunks: int) -> None:
    """Chunks from tame to absurd, most of them on time."""
    random = np.random.default_rng(seed)
    lucks = random.random((chunks, 12)).tolist()
    rows = random.standard_normal((chunks, 8, 5)).astype(np.float32) * 10.0 ** random.integers(-2, 3, (chunks, 1, 1))
    broken = random.random(chunks) < 0.02
    rows[broken, random.integers(8), random.integers(5)] = random.choice([np.nan, np.inf, -np.inf], broken.sum())
    gaps = random.choice(GAPS_NS, (chunks, 2)).tolist()
    pushes = random.normal(0, 10.0 ** random.integers(-3, 2, chunks)).tolist()
    for k, luck in enumerate(lucks):
        disturb(bench, luck, pushes[k])
        far_off_ns = int((luck[7] - 0.5) * 20 * S) if luck[8] < 0.02 else 0
        bench.chunk(rows[k], bench.observed_ns[-1 if luck[8] < 0.8 else 0] + far_off_ns)
        for gap_ns in gaps[k][: 1 + (luck[9] < 0.2)]:
            bench.wait(gap_ns if gap_ns < S // 10 or luck[10] < 0.1 else S // 50)
            if luck[11] < 0.95:
                bench.state(bench.robot, int(luck[7] * 0.02 * S))
            bench.command()


@pytest.mark.parametrize("name", EXECUTORS)
def test_no_command_breaks_a_limit(name: str) -> None:
    totals: Counter[str] = Counter()
    judged = 0
    share = {"newest": 0.7}.get(name, 0.1)
    for seed in range(max(1, round(CHUNKS * share / BLOCK))):
        bench = Bench(EXECUTORS[name](), latched=("estop",) if seed % 2 else ("estop", "tracking"))
        live_through(bench, seed, min(BLOCK, CHUNKS))
        totals += bench.gate.counts
        judged += bench.judge.judged
    # The run is worth its name: every kind of command and nearly every cause came up.
    assert judged > 0.5 * CHUNKS * share
    assert {"command.follow", "command.hold", "command.stop", "chunk.not_finite", "clock.restarts"} <= set(totals)
    causes = {"estop", "clock_jump", "state_stale", "state_not_finite", "tracking", "chunk_not_finite"}
    causes.add("publisher_conflict")
    assert {f"fallback.{cause}" for cause in causes} <= set(totals)
    assert min(totals[f"limited.{column}"] for column in gate_judge.NAMES) > 100


@given(
    mode=st.sampled_from(["hold", "decelerate", "stop"]),
    recover_after_s=st.sampled_from([0.0, 0.03, 0.2]),
    steps=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.01, 0.3, 1.0, 1e6]),  # level of the chunk's rows; 0.0 for none
            st.integers(1, 8),  # rows
            st.integers(0, 3**5 - 1),  # their signs
            st.integers(0, 15),  # bits: heartbeat, state
            st.lists(st.sampled_from([10, 20, 20, 40, 70, 90]), max_size=12),  # gaps between commands in ms
        ),
        max_size=40,
    ),
)
def test_no_fallback_mode_breaks_a_limit(mode: str, recover_after_s: float, steps: list[Any]) -> None:
    """Every fallback, with causes that come and go every few commands."""
    causes = ("chunk_spent", "chunk_missing", "chunk_expired", "state_stale", "heartbeat_missing", "tracking")
    bench = Bench(LatestChunk(), fallbacks=dict.fromkeys(causes, mode), recover_after_s=recover_after_s)
    for level, rows, signs, bits, gaps_ms in steps:
        if level:
            row = level * (signs // 3 ** np.arange(5) % 3 - 1.0)
            bench.chunk(np.tile(row, (rows, 1)), bench.ros_ns)
        if bits & 3:
            bench.observe()
        for gap_ms in gaps_ms:
            bench.wait(gap_ms * 1_000_000)
            if bits & 12:
                bench.state(bench.robot)
            bench.command()


def test_the_judge_finds_what_a_gate_would_let_through() -> None:
    """Control: the same chunks sent as they are, without a gate, break a limit at once."""
    bench = Bench(LatestChunk())
    bench.judge.state([0.0] * 4)
    row = np.array([0.05, 0.0, 0.0, 0.0, 0.0])
    bench.judge.chunk(gate_judge.chunk(np.tile(row, (8, 1)), bench.ros_ns, 1))
    command = GateCommand(1, bench.ros_ns, bench.ros_ns, "follow", tuple(row.tolist()), sequence=1)
    with pytest.raises(AssertionError):
        bench.judge.command(command, bench.ros_ns, bench.steady_ns)


@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("factor", [1.5, np.nan])
def test_the_judge_finds_one_wrong_number(column: int, factor: float) -> None:
    """Control: a run at full speed, in which one column of one late command is changed."""
    bench = Bench(LatestChunk())
    bench.gate.heartbeat(bench.ros_ns, bench.steady_ns)
    for _ in range(15):
        bench.state(bench.robot)
        bench.chunk(np.tile(np.array([9.0, 9.0, 0.4, 9.0, 1.0]), (8, 1)), bench.ros_ns)
        bench.wait(20_000_000)
        bench.state(bench.robot)
        command = bench.command()
    assert command.values is not None
    wrong = list(command.values)
    wrong[column] *= factor
    bench.wait(20_000_000)
    command = replace(command, number=command.number + 1, stamp_ns=bench.ros_ns, values=tuple(wrong))
    with pytest.raises(AssertionError):
        bench.judge.command(command, bench.ros_ns, bench.steady_ns)
