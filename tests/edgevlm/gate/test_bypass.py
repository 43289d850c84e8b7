"""Bypass: the same verbs as the gate, and none of its limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import gate_judge
from support.gate_bench import LIMITS, MS, TICK_NS, hand
from support.gate_judge import S

from edgevlm.gate.bypass import Bypass
from edgevlm.gate.chunking import ConsumptionIndexed, Executor, LatestChunk, RecedingHorizon
from edgevlm.gate.gate import Commander, Gate
from edgevlm.gate.limits import GateLimits
from edgevlm.manifest.contract import Contract, Stamped

START_NS = 1000 * S


def make(kind: Any = Bypass, contract: Contract | None = None, executor: Executor | None = None) -> Commander:
    axis = {"action": "x", "state": "at", "position": (-0.5, 0.5), "velocity": 0.4, "acceleration": 2.0, "tracking": 1}
    made: Commander = kind(contract or hand(), GateLimits(**{**LIMITS, "axes": (axis,)}), executor or LatestChunk())
    return made


def rows(*x: float, observed_ns: int = START_NS, names: tuple[str, ...] = ("x", "grip")) -> Any:
    return gate_judge.chunk(np.array([[value, 0.5] for value in x]), observed_ns, 1, names)


def test_rows_go_out_as_they_come_and_the_last_one_for_ever() -> None:
    bypass = make()
    assert bypass.feed(rows(0.05, 9.0, np.nan, -0.03), START_NS, 0) is None
    step_ns = round(gate_judge.STEP_S * S)
    sent = [bypass.command(START_NS + k * step_ns, k * step_ns) for k in (0, 1, 2, 3, 1000)]
    values = [command.values for command in sent]
    assert all(given is not None and given[1] == 0.5 for given in values)
    # A delta for each step is sent per second, as the gate does.
    assert [given[0] for given in values if given] == pytest.approx([0.5, 90.0, np.nan, -0.3, -0.3], nan_ok=True)
    assert [command.number for command in sent] == [1, 2, 3, 4, 5]
    assert {command.mode for command in sent} == {"follow"}


def test_nothing_but_an_emergency_stop_stops_it() -> None:
    gate, bypass = make(Gate), make()
    for commander in (gate, bypass):
        commander.feed_state(Stamped(np.array([np.nan], np.float32), START_NS), START_NS)
        commander.heartbeat(START_NS, 0, START_NS)
        commander.feed(rows(0.05), START_NS, 0)
        commander.conflict(["command/twist"])
    assert gate.command(START_NS + TICK_NS, TICK_NS).values is None
    assert bypass.command(START_NS + TICK_NS, TICK_NS).values == pytest.approx((0.5, 0.5))
    bypass.estop(True)
    bypass.estop(False)
    stopped = bypass.command(START_NS + TICK_NS, TICK_NS)
    assert (stopped.values, stopped.cause, stopped.stop) == (None, "estop", True)
    assert bypass.rearm()
    assert bypass.command(START_NS + TICK_NS, TICK_NS).values == pytest.approx((0.5, 0.5))


def test_sends_nothing_before_the_first_chunk_and_refuses_only_other_columns() -> None:
    bypass = make()
    assert bypass.command(START_NS, 0).values is None
    refusal = bypass.feed(rows(0.1, names=("y", "grip")), START_NS, 0)
    assert refusal is not None
    assert refusal.reason == "names"
    assert bypass.command(START_NS, 0).values is None


def test_a_position_relative_to_the_observation_is_added_to_the_state() -> None:
    bypass = make(contract=hand("joint_delta", "observation", 0.5))
    bypass.feed_state(Stamped(np.array([0.25], np.float32), START_NS), START_NS)
    bypass.feed(rows(0.125), START_NS, 0)
    assert bypass.command(START_NS, 0).values == (0.375, 0.5)


def test_the_executor_is_told_what_came_and_a_clock_that_restarts_harms_nothing() -> None:
    executor = RecedingHorizon(LatestChunk(), 2)
    bypass = make(executor=executor)
    assert executor.wants_chunk(START_NS)
    bypass.heartbeat(START_NS, 0, START_NS)
    bypass.feed(rows(0.1, 0.2, 0.3), START_NS, 0)
    assert not executor.wants_chunk(START_NS)
    assert executor.wants_chunk(START_NS + 200 * MS)
    bypass.heartbeat(5, 0, 5)
    assert bypass.feed(rows(0.2, observed_ns=5), 5, 0) is None
    assert bypass.command(5, 0).values == pytest.approx((2.0, 0.5))


def test_a_chunk_that_nobody_announced_is_sent_all_the_same() -> None:
    bypass = make(executor=ConsumptionIndexed())
    assert bypass.feed(rows(0.1), START_NS, 0) is None
    assert bypass.counts["chunk.unannounced"] == 1
    assert bypass.command(START_NS, 0).values is not None
