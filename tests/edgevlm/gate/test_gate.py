"""The gate follows what the limits allow, bit for bit, and refuses whole what it cannot judge."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import gate_judge
from support.gate_bench import LIMITS, MS, Bench, bench_limits, hand
from support.gate_judge import STEP_S, S

from edgevlm.errors import ContractError
from edgevlm.gate.chunking import ConsumptionIndexed, LatestChunk
from edgevlm.gate.gate import Gate
from edgevlm.gate.limits import GateLimits
from edgevlm.manifest.contract import Stamped


def test_follows_a_chunk_within_the_limits_bit_for_bit() -> None:
    bench = Bench(axis={"acceleration": 1000.0})
    command = bench.tick(0.013)
    assert command.mode == "follow"
    assert command.values == (float(np.float32(0.013)) / STEP_S, 0.0)
    assert command.limited == ()
    assert (command.cause, command.since_ns) == (None, None)
    assert (command.observed_ns, command.sequence, command.row) == (bench.ros_ns, 1, 0)


def test_in_lock_step_a_delta_arrives_as_the_model_put_it_out() -> None:
    """One command for each row: float32(velocity * step) is the row itself, to the last bit."""
    bench = Bench(hand(most=0.04), axis={"acceleration": 1e6}, command_period_s=STEP_S, command_valid_s=STEP_S)
    deltas = np.random.default_rng(3).uniform(-0.04, 0.04, (100, 1)).astype(np.float32)
    for delta in deltas[:, 0]:
        bench.at = 0.0
        command = bench.tick(float(delta), ns=round(STEP_S * S))
        assert command.values is not None
        assert np.float32(command.values[0] * STEP_S) == delta


def test_in_lock_step_positions_pass_bit_for_bit() -> None:
    bench = Bench(hand("joint_position", "none", 1.0), axis={"acceleration": 1e6, "velocity": 100.0, "tracking": 2.0})
    bench.gate = Gate(bench.contract, bench_limits(bench, STEP_S), LatestChunk())
    rows = np.random.default_rng(3).uniform(-0.5, 0.5, (8, 2)).astype(np.float32)
    bench.ros_ns += round(STEP_S * S)
    bench.state()
    bench.gate.heartbeat(bench.ros_ns, bench.steady_ns)
    chunk = gate_judge.chunk(rows, bench.ros_ns, 1, ("x", "grip"))
    bench.gate.feed(chunk, bench.ros_ns, bench.steady_ns)
    for row in rows.astype(np.float64).tolist():
        command = bench.gate.command(bench.ros_ns, bench.steady_ns)
        assert command.values == tuple(row)
        bench.ros_ns += round(STEP_S * S)
        bench.steady_ns += MS
        bench.gate.feed_state(Stamped(np.array(row[:1], np.float32), bench.ros_ns), bench.ros_ns)


def test_a_delta_to_the_observation_is_a_position_by_the_state_of_that_time() -> None:
    bench = Bench(hand("ee_delta", "observation", 0.05), axis={"acceleration": 100.0, "velocity": 10.0})
    bench.at = 0.2
    bench.tick()
    assert bench.chunk(0.03) is None
    bench.run(30)
    assert bench.at == pytest.approx(0.23, abs=1e-6)
    bench.chunk(9.0)
    bench.run(30)
    assert bench.at == pytest.approx(0.28, abs=1e-6), "the contract bounds the delta"


def test_refuses_a_delta_to_an_observation_whose_state_nobody_saw() -> None:
    bench = Bench(hand("ee_delta", "observation", 0.05))
    assert bench.chunk(0.01) == "no_state"


def test_positions_between_rows_are_ramps_that_arrive() -> None:
    """Rows 0.1 s apart, commands every 20 ms: even steps, and on each row once in its interval."""
    bench = Bench(hand("joint_position", "none", 0.5), axis={"acceleration": 100.0, "velocity": 10.0})
    rows = np.stack([0.01 * np.arange(1, 9), np.zeros(8)], axis=1).astype(np.float32)
    bench.tick()
    bench.chunk(0.0, values=rows)
    sent = [command.values[0] for command in bench.run(14) if command.values]
    steps = np.diff(sent[4:])
    assert np.allclose(steps, 0.002, atol=1e-6)
    assert {float(row) for row in rows[1:3, 0]} <= set(sent)


def test_a_velocity_has_its_dt() -> None:
    """0.4 m/s at rows of 0.1 s is 0.04 m: a delta may be so large and no larger, whatever the command rate."""
    bench = Bench()
    velocities = [bench.tick(0.05).values[0] for _ in range(40)]  # type: ignore[index]
    assert max(velocities) == 0.4
    assert velocities[0] == pytest.approx(2.0 * 0.02)
    assert all(b - a <= 2.0 * 0.02 * (1 + 1e-9) for a, b in pairwise(velocities))
    assert bench.gate.counts["limited.x"] >= 20


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_drops_every_row_of_the_chunk(bad: float) -> None:
    bench = Bench()
    bench.run(20, 0.02)
    values = np.full((8, 2), 0.02)
    values[7, 1] = bad
    assert bench.chunk(0.0, values=values.astype(np.float32)) == "not_finite"
    command = bench.tick()
    assert (command.mode, command.cause) == ("hold", "chunk_not_finite")
    assert bench.gate.counts["chunk.not_finite"] == 1
    assert command.values is not None
    assert command.values[0] == pytest.approx(0.2 - 2.0 * 0.02), "it brakes, it does not jump to zero"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"names": ("grip", "x")}, "names"),
        ({"names": ("x",)}, "names"),
        ({"values": np.zeros((8, 3), np.float32)}, "shape"),
        ({"values": np.zeros((9, 2), np.float32)}, "shape"),
        ({"values": np.zeros((0, 2), np.float32)}, "shape"),
        ({"values": np.zeros(2, np.float32)}, "shape"),
        ({"step_s": 1e-9}, "step"),
        ({"step_s": float("nan")}, "step"),
        ({"observed_ns": 1010 * S}, "future"),
        ({"observed_ns": 990 * S}, "expired"),
        ({"valid_until_ns": 999 * S}, "expired"),
    ],
)
def test_refuses_chunks_that_do_not_fit_and_counts_them(more: dict[str, Any], reason: str) -> None:
    bench = Bench()
    bench.tick()
    assert bench.chunk(0.01, **more) == reason
    assert bench.gate.counts[f"chunk.{reason}"] == 1
    assert bench.tick().mode == "hold"


def test_a_chunk_cannot_claim_to_be_valid_for_longer_than_its_rows() -> None:
    bench = Bench(deadline_s=10.0)
    bench.tick()
    bench.chunk(0.01, rows=2, valid_until_ns=bench.ros_ns + 100 * S)
    observed_ns = bench.ros_ns
    commands = bench.run(20)
    followed = [command for command in commands if command.mode == "follow"]
    assert followed[-1].stamp_ns <= observed_ns + 200 * MS
    assert all(command.valid_until_ns <= observed_ns + 200 * MS for command in followed)
    assert commands[-1].cause in ("chunk_spent", "chunk_expired")


def test_no_command_is_valid_for_longer_than_its_own_time() -> None:
    bench = Bench()
    for command in bench.run(30, 0.02):
        assert command.valid_until_ns - command.stamp_ns == 70 * MS


def test_a_chunk_that_nobody_announced_is_refused_where_consumption_counts() -> None:
    bench = Bench()
    bench.gate = Gate(bench.contract, bench_limits(bench, STEP_S), ConsumptionIndexed())
    bench.tick()
    assert bench.chunk(0.01) == "unannounced"
    bench.gate.heartbeat(bench.ros_ns, bench.steady_ns, observing_ns=bench.ros_ns)
    assert bench.chunk(0.01) is None


def test_a_flood_of_chunks_is_survived() -> None:
    bench = Bench()
    for k in range(3000):
        bench.chunk(0.02, observed_ns=bench.ros_ns - 3000 + k)
    assert bench.tick().mode in ("hold", "follow")
    assert bench.run(10, 0.02)[-1].mode == "follow"


def test_refuses_limits_that_do_not_fit() -> None:
    with pytest.raises(ContractError, match="'x' has no limits"):
        Gate(hand(), GateLimits(**{**LIMITS, "axes": ()}), LatestChunk())


@given(
    start=st.floats(-0.5, 0.5),
    delay=st.integers(0, 4),
    levels=st.lists(st.sampled_from([-0.05, -0.04, 0.0, 0.01, 0.04, 0.05]), min_size=1, max_size=30),
)
@example(start=0.0, delay=4, levels=[0.05] * 30)
@example(start=0.0, delay=4, levels=[-0.05] * 30)
def test_a_hand_never_leaves_its_workspace(start: float, delay: int, levels: list[float]) -> None:
    """The axis moves exactly as told; its state is measured up to 80 ms before it is known."""
    bench = Bench()
    bench.sees, bench.at = False, start
    history = [(bench.ros_ns, start)]
    for level in levels:
        for _ in range(6):
            history.append((bench.ros_ns, bench.at))
            stamp_ns, at = history[max(0, len(history) - 1 - delay)]
            bench.gate.feed_state(Stamped(np.array([at], np.float32), stamp_ns), bench.ros_ns)
            bench.tick(level)
            assert -0.5 - 1e-6 <= bench.at <= 0.5 + 1e-6
