"""A robot that is somewhere else than it was sent: pushed, stuck, outside its range, or turned by a whole turn.

The judge here sees commands, measured positions and limits, and nothing else: no position may be commanded further than
`tracking` from the measured one, and every motion begins where the robot stands.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import gate_judge
from support.gate_judge import Judge, Rule, S

from edgevlm.errors import ContractError
from edgevlm.gate.chunking import LatestChunk
from edgevlm.gate.gate import Gate, GateCommand
from edgevlm.gate.limits import GateLimits
from edgevlm.manifest.contract import Contract, Stamped, StateField

TICK_NS, PERIOD_S, TRACKING = 20_000_000, 0.02, 0.1
VELOCITY, ACCELERATION = 0.5, 2.0


def joint(bound: float = 4.0, relative_to: str = "none", unit: str = "rad") -> Contract:
    kind = "joint_position" if relative_to == "none" else "joint_delta"
    group = gate_judge.group(kind, ("j",), unit, bound, relative_to=relative_to)
    return gate_judge.contract((group,), (StateField(name="m", unit=unit),))


class Robot:
    """One joint behind a gate, judged at every command. It goes where it is sent, unless it is `stuck` or pushed."""

    def __init__(self, contract: Contract | None = None, period: float = 0.0, **more: Any) -> None:
        axis = {"action": "j", "state": "m", "position": None if period else (-1.0, 1.0), "velocity": VELOCITY}
        axis |= {"acceleration": ACCELERATION, "tracking": TRACKING, "continuous": bool(period), **more.pop("axis", {})}
        limits = {**gate_judge.limits(), "axes": (axis,), "recover_after_s": 0.1, **more}
        self.contract = contract or joint()
        self.gate = Gate(self.contract, GateLimits(**limits), LatestChunk())
        low, high = axis["position"] or (-math.inf, math.inf)
        rule = Rule("position", low, high, VELOCITY, ACCELERATION, axis["tracking"], 0, period)
        self.judge = Judge((rule,))
        self.now_ns, self.at, self.sequence, self.stuck, self.sees = 100 * S, 0.0, 0, False, True

    def tick(self, target: float | None) -> GateCommand:
        self.now_ns += TICK_NS
        measured = np.float32(self.at)
        if self.sees:
            assert self.gate.feed_state(Stamped(np.array([measured]), self.now_ns), self.now_ns) is None
            self.judge.state([float(measured)])
        self.gate.heartbeat(self.now_ns, self.now_ns)
        if target is not None:
            self.sequence += 1
            chunk = gate_judge.chunk(np.full((8, 1), target), self.now_ns, self.sequence, ("j",))
            self.judge.chunk(chunk)
            self.gate.feed(chunk, self.now_ns, self.now_ns)
        command = self.gate.command(self.now_ns, self.now_ns)
        self.judge.command(command, self.now_ns, self.now_ns)
        if command.values is not None and not self.stuck:
            self.at = command.values[0]
        return command

    def run(self, ticks: int, target: float | None) -> list[GateCommand]:
        return [self.tick(target) for _ in range(ticks)]


@pytest.mark.parametrize("at", [1.05, 1.0999, -1.05, 1.0, 0.97])
@pytest.mark.parametrize("target", [0.0, 3.0, -3.0])
def test_from_outside_its_range_a_robot_comes_back_at_limited_speed(at: float, target: float) -> None:
    robot = Robot()
    robot.at = at
    commands = robot.run(400, target)
    sent = [command.values[0] for command in commands if command.values]
    assert abs(sent[0] - at) <= ACCELERATION * PERIOD_S**2 + 1e-6, "the first command begins where the robot stands"
    assert {command.mode for command in commands} == {"follow"}
    assert sent[-1] == pytest.approx(min(max(target, -1.0), 1.0))


def test_a_robot_outside_by_more_than_its_tracking_is_left_to_a_person() -> None:
    robot = Robot()
    robot.at = 1.2
    commands = robot.run(50, 0.0)
    assert {(command.mode, command.cause, command.values) for command in commands} == {
        ("hold", "outside_workspace", None)
    }
    robot.at = 1.05
    assert robot.run(20, 0.0)[-1].mode == "follow"


@pytest.mark.parametrize("mode", ["hold", "decelerate", "stop"])
@pytest.mark.parametrize("push", [0.11, 1.0, -0.5])
def test_a_pushed_robot_is_let_go_and_followed_again_from_where_it_stands(mode: str, push: float) -> None:
    robot = Robot(fallbacks={"tracking": mode})
    robot.run(40, -0.2)
    robot.at += push
    command = robot.tick(-0.2)
    assert (command.mode, command.cause, command.values) == (mode, "tracking", None)
    there = robot.at
    commands = robot.run(60, -0.2)
    first = next(command for command in commands if command.values)
    assert first.mode == "follow"
    assert first.values is not None
    assert abs(first.values[0] - there) <= ACCELERATION * PERIOD_S**2 + 1e-6
    assert robot.run(300, -0.2)[-1].values == (pytest.approx(-0.2, abs=1e-6),)


def test_one_wrong_measurement_moves_nothing() -> None:
    """A state that is wrong once: the gate lets go, and never sends the robot there."""
    robot = Robot()
    robot.run(40, 0.3)
    at, robot.at = robot.at, 0.9
    robot.tick(0.3)
    robot.at = at
    sent = [command.values[0] for command in robot.run(60, 0.3) if command.values]
    assert sent[-1] == pytest.approx(0.3)
    assert max(abs(value - 0.3) for value in sent) < 0.1


def test_a_robot_that_is_held_and_pushed_is_not_pulled_back() -> None:
    """Whatever the robot rests for: no command may be further from it than its tracking."""
    robot = Robot()
    robot.run(40, 0.1)
    assert robot.run(40, None)[-1].cause == "chunk_missing"
    robot.at = 0.8
    commands = robot.run(400, None)
    assert {command.values for command in commands} == {None}
    assert robot.run(20, 0.8)[-1].mode == "follow"


def test_a_robot_moved_by_hand_while_its_state_is_lost_is_not_pulled_back() -> None:
    robot = Robot()
    robot.run(40, 0.1)
    robot.sees = False
    robot.run(40, 0.1)
    robot.at, robot.sees = 0.8, True
    assert robot.tick(0.1).values is None


def test_a_stuck_robot_is_pressed_by_no_more_than_its_tracking() -> None:
    robot = Robot()
    robot.run(10, 0.0)
    robot.stuck = True
    commands = robot.run(300, 0.9)
    assert {command.cause for command in commands if command.mode == "hold"} == {"tracking"}
    robot.stuck = False
    assert robot.run(300, 0.9)[-1].values == (pytest.approx(0.9),)


@given(st.lists(st.tuples(st.floats(-1.3, 1.3), st.sampled_from([None, -3.0, 0.0, 3.0]), st.booleans()), max_size=12))
def test_no_push_and_no_target_breaks_a_limit(parts: list[tuple[float, float | None, bool]]) -> None:
    robot = Robot()
    robot.run(5, 0.0)
    for at, target, stuck in parts:
        robot.stuck = stuck
        robot.run(7, target)
        robot.at = at
        robot.run(12, target)


def test_the_judge_sees_a_jump_to_the_edge() -> None:
    """Control: what the gate did before it began where the robot stands."""
    robot = Robot()
    robot.judge.state([1.05])
    jumped = GateCommand(1, robot.now_ns, robot.now_ns, "hold", (0.9992,), "tracking", 1)
    with pytest.raises(AssertionError, match="velocity"):
        robot.judge.command(jumped, robot.now_ns, robot.now_ns)


@pytest.mark.parametrize("turns", [-2, -1, 1, 2])
def test_an_encoder_that_starts_over_is_no_push(turns: int) -> None:
    robot = Robot(period=math.tau)
    robot.at = 3.0
    robot.run(40, 3.0)
    for _ in range(40):
        robot.at = math.remainder(robot.at, math.tau) + math.tau * turns
        assert robot.tick(3.0).mode == "follow"


@pytest.mark.parametrize(("start", "target"), [(3.0, -3.0), (-3.0, 3.0), (3.1, 2.9), (0.0, 3.0), (-0.5, 0.5)])
def test_a_joint_without_ends_turns_the_shorter_way(start: float, target: float) -> None:
    robot = Robot(period=math.tau)
    robot.at = start
    turned = 0.0
    for _ in range(600):
        before = robot.at
        robot.tick(target)
        turned += math.remainder(robot.at - before, math.tau)
        robot.at = math.remainder(robot.at, math.tau)
    assert turned == pytest.approx(math.remainder(target - start, math.tau), abs=1e-5)


def test_its_commands_make_no_jump_of_a_turn() -> None:
    robot = Robot(period=math.tau)
    robot.at = 3.0
    sent = []
    for _ in range(300):
        command = robot.tick(-3.0)
        assert command.values is not None
        sent.append(command.values[0])
        robot.at = math.remainder(robot.at, math.tau)
    assert max(abs(b - a) for a, b in pairwise(sent)) <= VELOCITY * PERIOD_S * (1 + 1e-9)
    assert sent[-1] == pytest.approx(math.tau - 3.0)


def test_a_delta_from_an_observation_crosses_the_turn_too() -> None:
    robot = Robot(joint(0.3, "observation"), period=math.tau)
    robot.at = 3.1
    for _ in range(200):
        assert robot.tick(0.2).mode == "follow"
        robot.at = math.remainder(robot.at, math.tau)
    assert robot.at < 3.0, "it went on past the turn"


@pytest.mark.parametrize(
    ("axis", "unit", "message"),
    [
        ({"tracking": 3.2}, "rad", "half a turn"),
        ({}, "m", "rad or deg"),
        ({"position": (-1.0, 1.0)}, "rad", "no range"),
        ({"continuous": False}, "rad", "give it state, tracking and position"),
    ],
)
def test_refuses_a_continuous_joint_that_makes_no_sense(axis: dict[str, Any], unit: str, message: str) -> None:
    with pytest.raises((ContractError, ValueError), match=message):
        Robot(joint(unit=unit), period=math.tau, axis=axis)


def test_degrees_turn_in_degrees() -> None:
    robot = Robot(joint(360.0, unit="deg"), period=360.0)
    robot.at = 179.99
    for _ in range(40):
        assert robot.tick(-179.99).mode == "follow"
        robot.at = math.remainder(robot.at, 360.0)
    assert robot.at == pytest.approx(-179.99, abs=1e-3)


def test_bounds_of_the_contract_hold_for_the_chunk_of_a_joint_without_ends() -> None:
    robot = Robot(joint(1.5), period=math.tau)
    assert robot.run(400, 2.5)[-1].values == (pytest.approx(1.5),)
