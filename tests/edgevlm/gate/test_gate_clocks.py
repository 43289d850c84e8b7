"""Whatever the clocks do, limits hold: in steady time on the system's clock, in data time in a simulation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gate_bench import MS, Bench, hand
from support.gate_judge import Judge, Rule, S

from edgevlm.manifest.contract import Stamped

VELOCITY, ACCELERATION = 0.4, 2.0
KINDS = ("ee_delta", "joint_position")
Data = Callable[[int], int]  # the command's number -> how far data time goes, ns; steady time goes 20 ms

WAYS: dict[str, Data] = {
    "49 ms ahead": lambda k: 69 * MS if k == 60 else 20 * MS,
    "79 ms ahead": lambda k: 99 * MS if k == 60 else 20 * MS,
    "79 ms ahead, again and again": lambda k: 99 * MS if k % 5 == 0 else 20 * MS,
    "5 ms ahead each time": lambda k: 25 * MS,
    "15 ms back": lambda k: 5 * MS if k == 60 else 20 * MS,
    "19 ms back, again and again": lambda k: 1 * MS if k % 3 == 0 else 20 * MS,
    "25 ms back": lambda k: -5 * MS if k == 60 else 20 * MS,
    "back and ahead": lambda k: 20 * MS + (60 * MS if k % 2 else -19 * MS),
    "half as fast": lambda k: 10 * MS,
    "four times as fast": lambda k: 80 * MS,
    "a twentieth faster": lambda k: 21 * MS,
    "five in ten thousand slower": lambda k: 19_990_000,
    "an hour ahead": lambda k: 3600 * S if k == 60 else 20 * MS,
    "an hour back": lambda k: -3600 * S if k == 60 else 20 * MS,
    "900 ms back": lambda k: -900 * MS if k == 60 else 20 * MS,
    "stands": lambda k: 0 if k >= 60 else 20 * MS,
    "stands for a period": lambda k: 0 if k == 60 else 20 * MS,
    "drifts more and more": lambda k: 20 * MS + k * MS // 4,
}


def bench(kind: str, **more: Any) -> tuple[Bench, Judge]:
    rig = Bench(hand(kind, "previous" if kind == "ee_delta" else "none", 0.5), **more)
    form = "velocity" if kind == "ee_delta" else "position"
    rules = (Rule(form, -0.5, 0.5, VELOCITY, ACCELERATION, 0.1, 0), Rule("value", -1.0, 1.0))
    return rig, Judge(rules, time=more.get("time", "system"))


def drive(rig: Bench, judge: Judge, data: Data, ticks: int = 140, steady: Data = lambda k: 20 * MS) -> None:
    """A robot that does as it is told, and chunks that want all of it, to and fro."""
    for k in range(ticks):
        rig.ros_ns += data(k)
        rig.steady_ns += steady(k)
        judge.time_is(rig.ros_ns)
        before = rig.gate.counts["state.accepted"]
        rig.state()
        if rig.gate.counts["state.accepted"] > before:
            judge.state([float(np.float32(rig.at))])
        rig.gate.heartbeat(rig.ros_ns, rig.steady_ns)
        if k % 3 == 0:
            level = 0.4 if k // 40 % 2 == 0 else -0.4
            rig.chunk(level)
            judge.until_ns[rig.sequence] = rig.ros_ns + 1_000_000_000
        command = rig.gate.command(rig.ros_ns, rig.steady_ns)
        rig.sent.append(command)
        judge.command(command, rig.ros_ns, rig.steady_ns)
        if command.values is not None:
            moves = rig.gate.columns[0].sent == "velocity"
            passed_ns = steady(k) if judge.time == "system" else data(k)
            rig.at = rig.at + command.values[0] * passed_ns / S if moves else command.values[0]
            assert -0.5 - 1e-6 <= rig.at <= 0.5 + 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_limits_hold_in_steady_time(kind: str, way: str) -> None:
    rig, judge = bench(kind)
    drive(rig, judge, WAYS[way])
    assert judge.judged > 40, "the robot was commanded at all"


SMALL = ("49 ms ahead", "5 ms ahead each time", "15 ms back", "half as fast", "a twentieth faster")


@pytest.mark.parametrize("way", SMALL)
def test_small_steps_and_drifts_do_not_stop_a_robot(way: str) -> None:
    rig, judge = bench("joint_position")
    drive(rig, judge, WAYS[way])
    assert {command.mode for command in rig.sent[5:]} == {"follow"}


@given(
    kind=st.sampled_from(KINDS),
    data_ms=st.lists(st.sampled_from([-1500, -300, -30, -5, 0, 1, 5, 19, 20, 21, 25, 60, 99, 150, 4000]), min_size=40),
    steady_ms=st.lists(st.sampled_from([0, 1, 15, 20, 25, 60, 69, 80, 500]), min_size=40),
)
def test_limits_hold_whatever_both_clocks_do(kind: str, data_ms: list[int], steady_ms: list[int]) -> None:
    rig, judge = bench(kind)
    steady = [20 * MS] * 20 + [gap * MS for gap in steady_ms]
    data = [20 * MS] * 20 + [gap * MS for gap in data_ms]
    drive(rig, judge, lambda k: data[k % len(data)], ticks=100, steady=lambda k: steady[k % len(steady)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steady_ns", [1, 200_000, 20 * MS, 250 * MS])
def test_in_simulated_time_a_robot_moves_as_fast_as_its_clock(kind: str, steady_ns: int) -> None:
    """The same commands, to the last bit, a million times as fast or ten times as slow."""

    def commands(gap_ns: int) -> list[tuple[float, ...] | None]:
        rig, judge = bench(kind, time="simulated", deadline_s=1e5)
        drive(rig, judge, lambda k: 20 * MS, steady=lambda k: gap_ns)
        return [command.values for command in rig.sent]

    assert commands(steady_ns) == commands(20 * MS)


def test_a_simulation_that_stops_is_braked_by_steady_time_and_named() -> None:
    rig, judge = bench("ee_delta", time="simulated")
    drive(rig, judge, lambda k: 20 * MS, ticks=39)
    before = rig.sent[-1].values
    drive(rig, judge, lambda k: 0, ticks=15)
    assert {command.number for command in rig.sent[39:]} == {rig.sent[38].number}, "no time, no new command"
    drive(rig, judge, lambda k: 0, ticks=30)
    assert (rig.sent[-1].mode, rig.sent[-1].cause) == ("hold", "clock_stopped")
    sent = [command.values[0] for command in rig.sent[39:] if command.values]
    assert before is not None
    assert sent[-1] == 0.0
    steps = [a - b for a, b in pairwise(sent)]
    assert min(steps) >= 0, "it only brakes"
    assert max(steps) <= ACCELERATION * 0.02 * (1 + 1e-9)
    drive(rig, judge, lambda k: 20 * MS, ticks=20)
    assert rig.sent[-1].mode == "follow", "the clock runs again"


def test_a_simulation_that_never_starts_is_named() -> None:
    rig, judge = bench("ee_delta", time="simulated")
    rig.ros_ns = 0
    drive(rig, judge, lambda k: 0, ticks=30)
    assert (rig.sent[-1].mode, rig.sent[-1].cause) == ("hold", "clock_stopped")
    assert rig.sent[-1].values == (0.0, 0.0)


def test_a_system_clock_that_stands_is_a_jump_at_once_and_then_has_stopped() -> None:
    rig, judge = bench("ee_delta")
    drive(rig, judge, lambda k: 20 * MS, ticks=39)
    drive(rig, judge, lambda k: 0, ticks=1)
    assert rig.sent[-1].cause == "clock_jump"
    drive(rig, judge, lambda k: 0, ticks=20)
    assert (rig.sent[-1].mode, rig.sent[-1].cause) == ("hold", "clock_stopped")
    assert rig.sent[-1].values == (0.0, 0.0)


@pytest.mark.parametrize("mode", ["hold", "decelerate", "stop"])
def test_a_stopped_clock_does_what_its_parameter_says(mode: str) -> None:
    rig, judge = bench("joint_position", time="simulated", fallbacks={"clock_stopped": mode})
    drive(rig, judge, lambda k: 20 * MS, ticks=30)
    drive(rig, judge, lambda k: 0, ticks=60)
    last = rig.sent[-1]
    assert (last.mode, last.cause) == (mode, "clock_stopped")
    assert (last.values is not None) == (mode == "hold")


def test_the_judge_sees_commands_by_data_time() -> None:
    """Control: what limits of data time would let through on a step ahead breaks those of steady time."""
    rig, judge = bench("ee_delta")
    drive(rig, judge, lambda k: 20 * MS, ticks=3)
    sent = rig.sent[-1]
    assert sent.values is not None
    faster = (sent.values[0] + ACCELERATION * 0.099, sent.values[1])
    rig.ros_ns, rig.steady_ns = rig.ros_ns + 99 * MS, rig.steady_ns + 20 * MS
    wrong = type(sent)(**{**vars(sent), "number": sent.number + 1, "stamp_ns": rig.ros_ns, "values": faster})
    with pytest.raises(AssertionError, match="acceleration"):
        judge.command(type(sent)(**{**vars(wrong), "valid_until_ns": rig.ros_ns}), rig.ros_ns, rig.steady_ns)


REAL = sorted(set(WAYS) - {"half as fast"})  # ages are data time: a clock that slow would have to be known to be slow


@pytest.mark.parametrize("delay", [0, 2, 4])
@pytest.mark.parametrize("way", REAL)
def test_a_hand_stays_in_its_workspace_whatever_the_clock_does_near_its_edge(way: str, delay: int) -> None:
    """States are up to 80 ms old; steps come while the hand is braked for the edge, and when it comes back."""
    rig, _ = bench("ee_delta")
    steps = {60, 66, 68, 70, 72, 200, 210}
    measured: list[tuple[int, float]] = []
    for k in range(400):
        once = WAYS[way](60) != WAYS[way](61)
        rig.ros_ns += WAYS[way](60 if k in steps else 61) if once else WAYS[way](k)
        rig.steady_ns += 20 * MS
        measured.append((rig.ros_ns, rig.at))
        stamp_ns, at = measured[max(0, k - delay)]
        rig.gate.feed_state(Stamped(np.array([at], np.float32), stamp_ns), rig.ros_ns, rig.steady_ns)
        rig.gate.heartbeat(rig.ros_ns, rig.steady_ns)
        rig.chunk(0.5 if k // 130 % 2 == 0 else -0.5)
        command = rig.gate.command(rig.ros_ns, rig.steady_ns)
        if command.values is not None:
            rig.at += command.values[0] * 0.02
        assert abs(rig.at) <= 0.5 + 1e-6
