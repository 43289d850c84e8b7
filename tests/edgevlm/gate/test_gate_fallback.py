"""The gate, cause by cause: what it sends, why, since when, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import gate_judge
from support.gate_bench import MS, TICK_NS, Bench, hand
from support.gate_judge import S

from edgevlm.manifest.contract import Stamped


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


def rival(bench: Bench) -> None:
    bench.gate.conflict(["command/twist"])


@pytest.mark.parametrize(
    ("harm", "cause", "within_ms", "feeds"),
    [
        (silence_chunks, "chunk_missing", 320, False),
        (silence_heartbeat, "heartbeat_missing", 320, True),
        (silence_state, "state_stale", 120, True),
        (break_state, "state_not_finite", 20, True),
        (press, "estop", 20, True),
        (rival, "publisher_conflict", 20, True),
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


def test_a_second_publisher_holds_until_it_is_gone() -> None:
    bench = Bench(recover_after_s=0.1)
    bench.run(25, 0.02)
    rival(bench)
    assert {(command.mode, command.cause) for command in bench.run(40, 0.02)} == {("hold", "publisher_conflict")}
    bench.gate.conflict([])
    modes = [command.mode for command in bench.run(10, 0.02)]
    assert modes[:4] == ["hold"] * 4
    assert modes[-1] == "follow"
    assert bench.gate.counts["fallback.publisher_conflict"] == 1


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
    bench = Bench(time="simulated")
    last = bench.run(25, 0.02)[-1]
    assert bench.gate.command(bench.ros_ns, bench.steady_ns + 200 * MS) is last, "no time, no new command"
    bench.gate.estop(True)
    assert bench.gate.command(bench.ros_ns, bench.steady_ns + 200 * MS).stop


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


def test_nothing_starts_while_the_clock_is_behind_its_latest_time() -> None:
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


@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        (silence_state, "state_stale"),
        (break_state, "state_not_finite"),
        (rival, "publisher_conflict"),
        (jump_state, "tracking"),
    ],
)
def test_a_gate_that_finishes_stops_for_a_graver_cause(harm: Callable[[Bench], None], cause: str) -> None:
    bench = Bench(hand("joint_position", "none", 0.5), fallbacks={cause: "stop"}, axis={"acceleration": 0.1})
    bench.run(60, 0.4)
    bench.gate.finish()
    first = bench.tick()
    assert (first.mode, first.cause) == ("hold", "deactivated")
    assert not bench.gate.at_rest
    harm(bench)
    commands = bench.run(7)
    assert cause in {command.cause for command in commands}
    assert (commands[-1].mode, commands[-1].values) == ("stop", None)
    assert bench.gate.at_rest


@pytest.mark.parametrize(("cause", "clock_ns"), [("clock_stopped", 0), ("clock_jump", 60 * S)])
def test_a_gate_that_finishes_stops_for_a_clock_that_fails(cause: str, clock_ns: int) -> None:
    bench = Bench(fallbacks={cause: "stop"}, axis={"acceleration": 0.1})
    bench.run(100, 0.02)
    bench.gate.finish()
    assert bench.tick().cause == "deactivated"
    assert not bench.gate.at_rest
    bench.ros_ns += clock_ns
    commands = []
    for _ in range(60):
        bench.steady_ns += TICK_NS
        bench.ros_ns += TICK_NS if clock_ns else 0
        commands.append(bench.gate.command(bench.ros_ns, bench.steady_ns))
    assert cause in {command.cause for command in commands}
    assert commands[-1].stop


@pytest.mark.parametrize("harm", [silence_state, rival, silence_heartbeat])
def test_a_cause_with_a_lighter_fallback_does_not_soften_that_of_finishing(harm: Callable[[Bench], None]) -> None:
    bench = Bench(fallbacks={"deactivated": "stop"})
    bench.run(25, 0.02)
    harm(bench)
    bench.run(7, 0.02)
    bench.gate.finish()
    assert bench.tick().stop
    assert {command.mode for command in bench.run(60, 0.02)} == {"stop"}  # also once it is over


@given(ticks=st.integers(1, 15), late=st.integers(2, 10), recover_ms=st.integers(0, 400))
def test_a_policy_slower_than_the_deadline_is_followed_for_moments_at_most(
    ticks: int, late: int, recover_ms: int
) -> None:
    """Never where recovering takes longer than the deadline and a command's period: `docs/ros.md`, a slow policy."""
    deadline_ms = ticks * TICK_NS // MS
    bench = Bench(deadline_s=deadline_ms / 1e3, recover_after_s=recover_ms / 1e3)
    followed = []
    for _ in range(8):  # a chunk, then none for longer than the deadline
        between = [bench.tick(0.01), *bench.run(ticks + late - 1)]
        assert between[-1].cause == "chunk_missing"
        followed.append(sum(command.mode == "follow" for command in between))
    recovering = max(1, -(-recover_ms * MS // TICK_NS))
    assert set(followed[1:]) == {max(0, ticks + 2 - recovering)}
