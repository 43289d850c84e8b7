"""A judge of gate commands with rules of its own: it imports nothing of the gate, and recomputes all from stamps.

`arm` is a made-up robot that has every kind of column the gate knows how to send, apart from orientations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from support.rotations import Form, angle_between, matrix, rotation_between, wire_quaternion

from edgevlm.manifest.contract import (
    ActionChunk,
    ActionGroup,
    ActionSpec,
    CameraSpec,
    Contract,
    InstructionSpec,
    StateField,
    StateSpec,
    WindowSpec,
)

S = 1_000_000_000
STEP_S = 0.1
PERIOD_S, VALID_S = 0.02, 0.07
NAMES = ("shoulder", "dx", "elbow_offset", "spin", "grip")
STATE = ("measured_x", "measured_shoulder", "ignored", "measured_elbow")


@dataclass(frozen=True)
class Rule:
    """One column's limits, written down a second time, in the units of what is sent."""

    form: Literal["position", "velocity", "value", "turning"]
    low: float
    high: float
    velocity: float = math.inf
    acceleration: float = math.inf
    tracking: float = math.inf
    state: int | None = None
    period: float = 0.0  # of a joint without ends


@dataclass(frozen=True)
class Turning:
    """An orientation's limits, written down a second time: rad, rad/s, rad/s^2."""

    columns: tuple[int, ...]
    state: tuple[int, ...]
    form: Form
    velocity: float
    acceleration: float
    tracking: float


class _Turned(NamedTuple):
    matrix: NDArray[np.float64]
    rate: NDArray[np.float64]
    wire: NDArray[np.float64]


class _Before(NamedTuple):
    """The command in force, and how fast it was reached."""

    values: Sequence[float]
    rates: Sequence[float]
    turns: Sequence[_Turned]
    ros_ns: int
    steady_ns: int
    stood: bool


class _Between(NamedTuple):
    """Seconds since the command in force; it is None where the robot starts from rest."""

    before: _Before | None
    all_s: float
    smaller_s: float
    stood: bool


RULES = (
    Rule("position", -1.0, 1.25, velocity=0.8, acceleration=3.0, tracking=0.2, state=1),
    Rule("velocity", -0.5, 0.5, velocity=0.3, acceleration=1.5, state=0),
    Rule("position", -2.0, 2.0, velocity=1.5, acceleration=20.0, tracking=0.4, state=3),
    Rule("velocity", -math.inf, math.inf, velocity=2.0, acceleration=8.0),
    Rule("value", -1.0, 1.0),
)


def arm() -> Contract:
    """joint_position, ee_delta to the previous row, joint_delta to the observation, twist and gripper, in one chunk."""
    groups = (
        group("joint_position", ("shoulder",), "rad", 1.25, lower=-1.5),
        group("ee_delta", ("dx",), "m", 0.04, relative_to="previous"),
        group("joint_delta", ("elbow_offset",), "rad", 0.5, relative_to="observation"),
        group("twist", ("spin",), "rad/s", 5.0),
        group("gripper", ("grip",), "1", 1.0),
    )
    fields = tuple(StateField(name=name, unit="1") for name in STATE)
    return contract(groups, fields)


def contract(groups: tuple[ActionGroup, ...], fields: tuple[StateField, ...], steps: int = 8) -> Contract:
    """A contract that only its actions and state matter of."""
    return Contract(
        cameras=(CameraSpec(name="eye", width=4, height=4, rate_hz=(5.0, 30.0)),),
        state=StateSpec(fields=fields) if fields else None,
        instruction=InstructionSpec(max_tokens=4),
        window=WindowSpec(offsets_s=(0.0,), tolerance_s=0.05),
        action=ActionSpec(groups=groups, steps=steps, step_s=STEP_S, execute_steps=steps),
    )


def group(kind: Any, names: tuple[str, ...], unit: str, most: float, **more: Any) -> ActionGroup:
    """An action group of columns with the same unit and bounds."""
    count, lower = len(names), more.pop("lower", -most)
    return ActionGroup(
        kind=kind,
        names=names,
        units=(unit,) * count,
        scale=(1.0,) * count,
        offset=(0.0,) * count,
        lower=(lower,) * count,
        upper=(most,) * count,
        **more,
    )


def limits() -> dict[str, Any]:
    """What `GateLimits` takes, for `arm`."""
    axes = (
        ("shoulder", "measured_shoulder", (-1.0, 2.0), 0.8, 3.0, 0.2),
        ("dx", "measured_x", (-0.5, 0.5), 0.3, 1.5, None),
        ("elbow_offset", "measured_elbow", (-2.0, 2.0), 1.5, 20.0, 0.4),
        ("spin", None, None, 2.0, 8.0, None),
    )
    keys = ("action", "state", "position", "velocity", "acceleration", "tracking")
    return {
        "axes": [dict(zip(keys, axis, strict=True)) for axis in axes],
        "command_period_s": PERIOD_S,
        "command_valid_s": VALID_S,
        "deadline_s": 0.5,
        "state_max_age_s": 0.1,
        "recover_after_s": 0.05,
        "future_s": 0.05,
        "reset_after_s": 1.0,
    }


def chunk(values: NDArray[Any], observed_ns: int, sequence: int, names: Sequence[str] = NAMES) -> ActionChunk:
    """A chunk valid as long as its rows last."""
    return ActionChunk(
        values=values.astype(np.float32, copy=False),
        names=tuple(names),
        units=("1",) * len(names),
        step_s=STEP_S,
        observed_ns=observed_ns,
        valid_until_ns=observed_ns + round(len(values) * STEP_S * S),
        sequence=sequence,
    )


class Judge:
    """Give it what went in and what came out; a broken limit is an AssertionError.

    It knows commands, measured states, limits and the two clocks. On the system's clock limits hold in steady time, and
    no velocity grows by more than the smaller of both times allows. In simulated time they hold in data time while that
    goes on as it should, otherwise in steady time; while the clock stands nothing moves. After a gap longer than a
    command is valid the robot is at rest where it is measured.

    Args:
        turning: the columns of an orientation and what limits it, with the state fields that measure it.
    """

    def __init__(
        self,
        rules: Sequence[Rule] = RULES,
        period_s: float = PERIOD_S,
        valid_s: float = VALID_S,
        time: Literal["system", "simulated"] = "system",
        turning: Sequence[Turning] = (),
    ) -> None:
        self.rules, self.turning, self.time = rules, turning, time
        self.period_s, self.valid_ns = period_s, round(valid_s * S)
        self.until_ns: dict[int, int] = {}  # of chunks that are wholly finite
        self.judged = self.restarts = 0
        self._state: Sequence[float] | None = None
        self._newest_ns: int | None = None
        self._strange = False  # data time went back since the command in force
        self._number = 0
        self._before: _Before | None = None

    def chunk(self, offered: ActionChunk) -> None:
        """A chunk went in."""
        if np.isfinite(offered.values).all():
            self.until_ns[offered.sequence] = offered.valid_until_ns

    def state(self, values: Sequence[float]) -> None:
        """A measured state went in, and was taken."""
        self._state = values

    def time_is(self, ros_ns: int) -> None:
        """Data time went in; a clock that restarted makes every state worthless."""
        if self._newest_ns is not None and ros_ns < self._newest_ns - S:
            self._state, self._newest_ns, self._strange = None, ros_ns, True
        self._newest_ns = max(ros_ns, self._newest_ns or ros_ns)
        self._strange |= ros_ns < self._newest_ns

    def command(self, command: Any, ros_ns: int, steady_ns: int) -> None:
        """A command came out at this time."""
        self.time_is(ros_ns)
        if command.number == self._number:
            return
        assert command.number > self._number
        self._number = command.number
        assert command.stamp_ns == ros_ns
        assert ros_ns <= command.valid_until_ns <= ros_ns + self.valid_ns, "validity"
        assert (command.mode == "follow") == (command.cause is None) == (command.since_ns is None)
        if command.mode == "stop":
            assert command.values is None, "stopped"
        if command.mode == "follow":
            assert command.valid_until_ns <= self.until_ns[command.sequence], "later than the chunk"
        if command.values is None:
            return
        self.judged += 1
        assert all(map(math.isfinite, command.values)), command.values
        between = self._between(ros_ns, steady_ns)
        rates = [self._column(i, command.values[i], between) for i in range(len(self.rules))]
        turns = [self._turn(k, command.values, between) for k in range(len(self.turning))]
        self._before = _Before(command.values, rates, turns, ros_ns, steady_ns, between.stood)
        self._strange = False

    def _between(self, ros_ns: int, steady_ns: int) -> _Between:
        before = self._before
        if before is None:
            return self._fresh()
        data_ns, gap_ns = ros_ns - before.ros_ns, steady_ns - before.steady_ns
        if self.time == "simulated" and not self._strange:
            if 0 <= data_ns < self.period_s * S / 10:
                return _Between(before, gap_ns / S, gap_ns / S, True)
            if 0 < data_ns <= self.valid_ns:
                return _Between(before, data_ns / S, data_ns / S, False)
        if gap_ns > self.valid_ns:
            return self._fresh()
        smaller_ns = min(gap_ns, data_ns) if 0 < data_ns <= self.valid_ns else gap_ns
        return _Between(before, gap_ns / S, smaller_ns / S, False)

    def _fresh(self) -> _Between:
        self.restarts += 1
        return _Between(None, self.period_s, self.period_s, False)

    def _measured(self, index: int | None) -> float | None:
        return None if self._state is None or index is None else self._state[index]

    def _column(self, i: int, value: float, between: _Between) -> float:
        rule, before = self.rules[i], between.before
        if rule.form == "value":
            assert rule.low <= value <= rule.high, (i, value)
            return 0.0
        if rule.form == "turning":
            return 0.0
        if rule.form == "velocity":
            assert abs(value) <= rule.velocity * (1 + 1e-9), (i, value)
            last = before.rates[i] if before else 0.0
            self._changed(i, last, value, between)
            return value
        measured = self._measured(rule.state)
        if measured is not None:
            apart = math.remainder(value - measured, rule.period) if rule.period else value - measured
            assert abs(apart) <= rule.tracking * (1 + 1e-12), ("tracking", i, value, measured)
        start = before.values[i] if before else measured
        assert start is not None, "started without a state"
        assert value <= max(rule.high, start), ("range", i, start, value)
        assert value >= min(rule.low, start), ("range", i, start, value)
        if between.stood:
            assert value == start, ("moved while the clock stood", i, start, value)
            return before.rates[i] if before else 0.0
        rate = (value - start) / between.all_s
        assert abs(rate) <= rule.velocity * (1 + 1e-9), ("velocity", i, rate)
        self._changed(i, before.rates[i] if before else 0.0, rate, between)
        return rate

    def _changed(self, i: int, last: float, rate: float, between: _Between) -> None:
        """No harder than allowed; faster only by the smaller of both times."""
        most, slack = self.rules[i].acceleration, 1e-6
        # After a clock that stood still nobody knows how much of the braking a robot saw.
        low, high = (min(last, 0.0), max(last, 0.0)) if between.before and between.before.stood else (last, last)
        hardest = most * between.all_s * (1 + slack)
        assert low - hardest - 1e-12 <= rate <= high + hardest + 1e-12, ("acceleration", i, last, rate, between.all_s)
        if self.rules[i].form == "velocity":
            faster = abs(rate) - max(abs(low), abs(high))
            assert faster <= most * between.smaller_s * (1 + slack) + 1e-12, ("faster", i, last, rate, between)

    def _turn(self, k: int, values: Sequence[float], between: _Between) -> _Turned:
        limit, before = self.turning[k], between.before
        numbers = [values[i] for i in limit.columns]
        after = matrix(limit.form, numbers)
        measured = None if self._state is None else matrix(limit.form, [self._state[i] for i in limit.state])
        if measured is not None:
            assert angle_between(measured, after) <= limit.tracking * (1 + 1e-6) + 1e-7, "tracking of a rotation"
        start = before.turns[k].matrix if before else measured
        assert start is not None, "started without a state"
        wire = wire_quaternion(limit.form, numbers)
        if before:
            assert wire @ before.turns[k].wire > 0, ("a quaternion changed its sign", before.turns[k].wire, wire)
        if between.stood:
            assert angle_between(start, after) < 1e-6, "turned while the clock stood"
            return _Turned(after, before.turns[k].rate if before else np.zeros(3), wire)
        rate = rotation_between(start, after) / between.all_s
        assert np.linalg.norm(rate) <= limit.velocity * (1 + 1e-6) + 1e-6, ("angular velocity", rate)
        last = before.turns[k].rate if before else np.zeros(3)
        change = float(np.linalg.norm(rate - last))
        hardest = limit.acceleration * between.all_s * (1 + 1e-6) + 1e-5
        if before and before.stood:  # somewhere between braked and not
            hardest += float(np.linalg.norm(last))
        assert change <= hardest, ("angular acceleration", last, rate, between.all_s)
        return _Turned(after, rate, wire)
