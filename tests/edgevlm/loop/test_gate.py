"""The gate, cause by cause: what it sends, why, since when, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import gate_judge
from support.gate_judge import STEP_S, S

from edgevlm.contract import ActionChunk, ActionGroup, Contract, Stamped, StateField
from edgevlm.errors import ContractError
from edgevlm.loop.executor import HandedOver, Newest
from edgevlm.loop.gate import Gate, GateCommand
from edgevlm.loop.limits import GateLimits

MS = 1_000_000
TICK_NS = 20 * MS
LIMITS: dict[str, Any] = {**gate_judge.limits(), "recover_after_s": 0.05, "deadline_s": 0.3}


def hand(kind: Any = "ee_delta", relative_to: Any = "previous", most: float = 0.05) -> Contract:
    """One axis x, measured by `at`, and a gripper."""
    move = ActionGroup(
        kind=kind,
        names=("x",),
        units=("m",),
        scale=(1.0,),
        offset=(0.0,),
        lower=(-most,),
        upper=(most,),
        relative_to=relative_to,
    )
    grip = ActionGroup(
        kind="gripper", names=("grip",), units=("1",), scale=(1.0,), offset=(0.0,), lower=(-1.0,), upper=(1.0,)
    )
    return gate_judge.contract((move, grip), (StateField(name="at", unit="m"),))


class Bench:
    """A gate, both clocks, and an axis that does as it is told; each `tick` is 20 ms."""

    def __init__(self, contract: Contract | None = None, **more: Any) -> None:
        self.contract = hand() if contract is None else contract
        axis = {"action": "x", "state": "at", "position": (-0.5, 0.5), "velocity": 0.4, "acceleration": 2.0}
        limits = {**LIMITS, "axes": ({**axis, "tracking": 0.1, **more.pop("axis", {})},), **more}
        self.gate = Gate(self.contract, GateLimits(**limits), Newest())
        self.ros_ns, self.steady_ns, self.at, self.sequence = 1000 * S, 3 * S, 0.0, 0
        self.sees = self.beats = True
        self.sent: list[GateCommand] = []

    def chunk(self, x: float, grip: float = 0.0, rows: int = 8, **more: Any) -> str | None:
        """Feed equal rows observed now; the reason when they are refused."""
        self.sequence += 1
        chunk = gate_judge.chunk(np.tile([x, grip], (rows, 1)), self.ros_ns, self.sequence, self.contract.action.names)
        refusal = self.gate.feed(ActionChunk(**{**vars(chunk), **more}), self.ros_ns, self.steady_ns)
        return None if refusal is None else refusal.reason

    def state(self) -> None:
        self.gate.feed_state(Stamped(np.array([self.at], np.float32), self.ros_ns), self.ros_ns)

    def tick(self, x: float | None = None, ns: int = TICK_NS) -> GateCommand:
        """Time passes, state and heartbeat come unless they are switched off, maybe a chunk; then a command."""
        self.ros_ns += ns
        self.steady_ns += ns
        if self.sees:
            self.state()
        if self.beats:
            self.gate.heartbeat(self.ros_ns, self.steady_ns)
        if x is not None:
            assert self.chunk(x) is None
        command = self.gate.command(self.ros_ns, self.steady_ns)
        self.sent.append(command)
        if command.values is not None:
            moves = self.gate.columns[0].sent == "velocity"
            self.at = self.at + command.values[0] * ns / S if moves else command.values[0]
        return command

    def run(self, ticks: int, x: float | None = None) -> list[GateCommand]:
        return [self.tick(x) for _ in range(ticks)]


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
    bench.gate = Gate(bench.contract, bench_limits(bench, STEP_S), Newest())
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


def bench_limits(bench: Bench, period_s: float) -> GateLimits:
    """The limits of a fast axis at one command for each row."""
    axis = {
        "action": "x",
        "state": "at",
        "position": (-0.5, 0.5),
        "velocity": 100.0,
        "acceleration": 1e6,
        "tracking": 2.0,
    }
    times = {"command_period_s": period_s, "command_valid_s": period_s, "deadline_s": 10.0}
    return GateLimits(**{**LIMITS, "axes": (axis,), **times})


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
def test_one_number_that_is_not_finite_drops_the_whole_chunk(bad: float) -> None:
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


def silence_chunks(bench: Bench) -> None:
    pass


def silence_heartbeat(bench: Bench) -> None:
    bench.beats = False


def silence_state(bench: Bench) -> None:
    bench.sees = False


def break_state(bench: Bench) -> None:
    bench.at = np.nan


def jump_state(bench: Bench) -> None:
    bench.at += 0.3


def press(bench: Bench) -> None:
    bench.gate.estop(True)


@pytest.mark.parametrize(
    ("harm", "cause", "within_ms", "feeds"),
    [
        (silence_chunks, "chunk_missing", 320, False),
        (silence_heartbeat, "heartbeat_missing", 320, True),
        (silence_state, "state_stale", 120, True),
        (break_state, "state_not_finite", 20, True),
        (press, "estop", 20, True),
    ],
)
def test_falls_back_in_time(harm: Callable[[Bench], None], cause: str, within_ms: int, feeds: bool) -> None:
    bench = Bench()
    assert bench.run(25, 0.02)[-1].mode == "follow"
    harm(bench)
    begun_ns = bench.ros_ns
    commands = bench.run(30, 0.02 if feeds else None)
    first = next(command for command in commands if command.mode != "follow")
    assert (first.cause, first.since_ns) == (cause, first.stamp_ns)
    assert first.stamp_ns - begun_ns <= within_ms * MS
    assert commands[-1].since_ns == first.stamp_ns
    assert all(command.mode != "follow" for command in commands[commands.index(first) :])
    if cause != "estop":
        assert commands[-1].values is not None
        assert commands[-1].values[0] == 0.0


def test_a_robot_that_is_not_where_it_was_sent_is_not_followed() -> None:
    bench = Bench(hand("joint_position", "none", 0.5))
    bench.run(25, 0.1)
    jump_state(bench)
    command = bench.tick(0.1)
    assert (command.mode, command.cause) == ("hold", "tracking")


def test_nothing_is_sent_before_the_first_state_chunk_and_heartbeat() -> None:
    bench = Bench()
    bench.sees = bench.beats = False
    causes = []
    for step in range(4):
        bench.sees, bench.beats = step > 0, step > 1
        command = bench.tick()
        assert command.values is None
        causes.append(command.cause)
    assert causes == ["state_missing", "heartbeat_missing", "chunk_missing", "chunk_missing"]


@pytest.mark.parametrize("mode", ["hold", "decelerate", "stop"])
def test_each_fallback_does_what_its_name_says(mode: str) -> None:
    bench = Bench(fallbacks={"chunk_not_finite": mode})
    bench.run(25, 0.02)
    assert bench.sent[-1].values == (pytest.approx(0.2), 0.0)
    bench.chunk(0.0, values=np.full((8, 2), np.nan, np.float32))
    commands = bench.run(15)
    sent = [None if command.values is None else command.values[0] for command in commands]
    braking = [0.2 - 0.04 * k for k in range(1, 6)]
    assert {command.mode for command in commands} == {mode}
    if mode == "stop":
        assert sent == [None] * 15
        assert all(command.stop for command in commands)
    elif mode == "hold":
        assert sent == pytest.approx([*braking, *[0.0] * 10], abs=1e-7)
    else:
        assert sent[:5] == pytest.approx(braking, abs=1e-7)
        assert sent[6:] == [None] * 9


def test_a_fallback_only_becomes_stricter_until_recovery() -> None:
    bench = Bench(fallbacks={"heartbeat_missing": "stop"})
    bench.run(25, 0.02)
    bench.beats = False
    bench.run(25, 0.02)
    bench.beats = True
    bench.gate.feed(gate_judge.chunk(np.full((8, 2), np.nan), bench.ros_ns, 99, ("x", "grip")), bench.ros_ns, 0)
    command = bench.tick()
    assert (command.cause, command.mode) == ("chunk_not_finite", "stop")


def test_recovers_only_after_a_while_and_with_a_new_chunk() -> None:
    bench = Bench(recover_after_s=0.1)
    bench.run(25, 0.02)
    bench.sees = False
    bench.run(20, 0.02)
    bench.sees = True
    well_ns = bench.ros_ns
    assert {command.mode for command in bench.run(4)} == {"hold"}
    commands = bench.run(6, 0.02)
    first = next(command for command in commands if command.mode == "follow")
    assert first.stamp_ns - well_ns >= 100 * MS
    assert first.values is not None
    assert first.values[0] == pytest.approx(2.0 * 0.02), "from rest, within the acceleration limit"


def test_the_emergency_stop_holds_until_it_is_rearmed_and_a_new_chunk_came() -> None:
    bench = Bench()
    bench.run(25, 0.02)
    bench.gate.estop(True)
    assert bench.tick(0.02).stop
    assert bench.gate.rearm() is False
    bench.gate.estop(False)
    assert bench.run(20, 0.02)[-1].stop
    assert bench.gate.rearm()
    assert bench.tick().stop, "the chunk is older than the re-arming"
    commands = bench.run(10, 0.02)
    assert commands[-1].mode == "follow"


def test_an_emergency_stop_between_two_commands_is_not_missed() -> None:
    bench = Bench()
    bench.run(25, 0.02)
    bench.gate.estop(True)
    bench.gate.estop(False)
    command = bench.tick(0.02)
    assert (command.cause, command.values, command.stop) == ("estop", None, True)


def test_the_emergency_stop_acts_while_data_time_stands_still() -> None:
    bench = Bench()
    last = bench.run(25, 0.02)[-1]
    assert bench.gate.command(bench.ros_ns, bench.steady_ns + S) is last, "no time, no new command"
    bench.gate.estop(True)
    assert bench.gate.command(bench.ros_ns, bench.steady_ns + S).stop


def test_a_latched_cause_waits_for_rearming() -> None:
    bench = Bench(latched=("estop", "state_not_finite"))
    bench.run(25, 0.02)
    bench.gate.feed_state(Stamped(np.array([np.nan], np.float32), bench.ros_ns + 10 * MS), bench.ros_ns)
    assert bench.tick(0.02, ns=15 * MS).mode == "follow", "a newer state came in time"
    bench.gate.feed_state(Stamped(np.array([np.nan], np.float32), bench.ros_ns + 10 * MS), bench.ros_ns)
    bench.sees = False
    bench.tick(0.02)
    bench.sees = True
    assert bench.run(20, 0.02)[-1].cause == "state_not_finite"
    bench.gate.rearm()
    assert bench.run(10, 0.02)[-1].mode == "follow"


@pytest.mark.parametrize("kind", ["ee_delta", "joint_position"])
def test_a_clock_that_restarts_brakes_and_starts_over(kind: str) -> None:
    bench = Bench(hand(kind, "previous" if kind == "ee_delta" else "none", 0.5), axis={"velocity": 0.2})
    level = 0.02 if kind == "ee_delta" else 0.4
    bench.run(25, level)
    bench.ros_ns = 2 * S
    command = bench.tick()
    assert (command.mode, command.cause) == ("hold", "clock_jump")
    assert command.stamp_ns == bench.ros_ns
    assert command.values is not None
    assert bench.gate.counts["clock.restarts"] == 1
    assert bench.run(2)[-1].mode == "hold"
    assert bench.run(15, level)[-1].mode == "follow"
    assert bench.gate.counts["state.late"] == 0, "stamps of the old clock are forgotten"


def test_a_clock_that_jumps_ahead_brakes_by_steady_time() -> None:
    bench = Bench()
    before = bench.run(25, 0.03)[-1]
    bench.ros_ns += 5 * S
    command = bench.tick(0.03)
    assert (command.mode, command.cause) == ("hold", "clock_jump")
    assert before.values is not None
    assert command.values is not None
    assert command.values[0] == pytest.approx(before.values[0] - 2.0 * 0.02)


def test_a_clock_that_stepped_back_a_little_brakes_by_steady_time() -> None:
    bench = Bench()
    bench.run(25, 0.03)
    bench.ros_ns -= 500 * MS
    commands = bench.run(20)
    assert {(command.mode, command.cause) for command in commands} == {("hold", "clock_jump")}
    assert [command.stamp_ns for command in commands] == [bench.ros_ns - k * TICK_NS for k in range(19, -1, -1)]
    velocities = [command.values[0] for command in commands if command.values]
    assert velocities == pytest.approx([max(0.0, 0.3 - 0.04 * k) for k in range(1, 21)], abs=1e-6)
    bench.run(6)  # the clock has caught up
    assert bench.run(10, 0.03)[-1].mode == "follow"


def test_nothing_starts_while_the_clock_is_behind_what_it_has_shown() -> None:
    bench = Bench()
    bench.run(2)
    bench.chunk(0.03)
    bench.ros_ns -= 500 * MS
    assert all(command.values is None for command in bench.run(20))


def test_a_followed_position_stays_near_a_robot_that_is_stuck() -> None:
    bench = Bench(hand("joint_position", "none", 0.5))
    for _ in range(60):
        bench.at = 0.0
        command = bench.tick(0.4)
        if command.mode == "follow":
            assert command.values is not None
            assert abs(command.values[0]) <= 0.1
    assert command.cause == "tracking"


def test_a_gap_longer_than_a_command_is_valid_starts_again_from_where_the_robot_is() -> None:
    bench = Bench(hand("joint_position", "none", 0.5))
    bench.run(40, 0.3)
    bench.at -= 0.05
    bench.ros_ns += 80 * MS
    bench.steady_ns += 80 * MS
    at = bench.at
    command = bench.tick(0.3)
    assert command.mode == "follow"
    assert command.values is not None
    assert abs(command.values[0] - at) <= 2.0 * 0.02**2 * (1 + 1e-3)


def test_a_robot_outside_its_range_is_not_pulled_back_by_a_jump() -> None:
    bench = Bench(hand("joint_position", "none", 0.5))
    bench.at = 0.7
    commands = bench.run(5, 0.3)
    assert all(command.values is None for command in commands)
    assert commands[-1].cause == "outside_workspace"


def test_asked_twice_at_one_instant_it_says_the_same() -> None:
    bench = Bench()
    command = bench.tick(0.02)
    assert bench.gate.command(bench.ros_ns, bench.steady_ns) is command


def test_a_chunk_that_nobody_announced_is_refused_where_consumption_counts() -> None:
    bench = Bench()
    bench.gate = Gate(bench.contract, bench_limits(bench, STEP_S), HandedOver())
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
        Gate(hand(), GateLimits(**{**LIMITS, "axes": ()}), Newest())


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
    seen = [(bench.ros_ns, start)]
    for level in levels:
        for _ in range(6):
            seen.append((bench.ros_ns, bench.at))
            stamp_ns, at = seen[max(0, len(seen) - 1 - delay)]
            bench.gate.feed_state(Stamped(np.array([at], np.float32), stamp_ns), bench.ros_ns)
            bench.tick(level)
            assert -0.5 - 1e-6 <= bench.at <= 0.5 + 1e-6
