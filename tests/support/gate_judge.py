"""A judge of gate commands with rules of its own: it imports nothing of the gate, and recomputes all from stamps.

`arm` is a made-up robot that has every kind of column the gate knows how to send, apart from orientations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgevlm.contract import (
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

    form: Literal["position", "velocity", "value"]
    low: float
    high: float
    velocity: float = math.inf
    acceleration: float = math.inf
    tracking: float = math.inf
    state: int | None = None


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
        _group("joint_position", ("shoulder",), "rad", 1.25, lower=-1.5),
        _group("ee_delta", ("dx",), "m", 0.04, relative_to="previous"),
        _group("joint_delta", ("elbow_offset",), "rad", 0.5, relative_to="observation"),
        _group("twist", ("spin",), "rad/s", 5.0),
        _group("gripper", ("grip",), "1", 1.0),
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


def _group(kind: Any, names: tuple[str, ...], unit: str, most: float, **more: Any) -> ActionGroup:
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

    Two readings of "the time between commands" are allowed, as a robot would: data time while it is within the
    validity of the command before, otherwise steady time while that is; otherwise the robot had come to rest.
    """

    def __init__(self, rules: Sequence[Rule] = RULES, period_s: float = PERIOD_S, valid_s: float = VALID_S) -> None:
        self.rules, self.period_s, self.valid_ns = rules, period_s, round(valid_s * S)
        self.until_ns: dict[int, int] = {}  # of chunks that are wholly finite
        self.state: Sequence[float] | None = None
        self.judged = self.restarts = 0
        self._number = 0
        self._values: Sequence[float] | None = None
        self._rates: list[float] = []
        self._ros_ns = self._steady_ns = 0

    def chunk(self, given: ActionChunk) -> None:
        """A chunk went in."""
        if np.isfinite(given.values).all():
            self.until_ns[given.sequence] = given.valid_until_ns

    def command(self, command: Any, ros_ns: int, steady_ns: int) -> None:
        """A command came out at this time."""
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
        self._judge(command, ros_ns, steady_ns)
        self._values, self._ros_ns, self._steady_ns = command.values, ros_ns, steady_ns

    def _judge(self, command: Any, ros_ns: int, steady_ns: int) -> None:
        gap_ns = ros_ns - self._ros_ns
        if not 0 < gap_ns <= self.valid_ns:
            gap_ns = steady_ns - self._steady_ns
        fresh = self._values is None or gap_ns > self.valid_ns
        self.restarts += fresh
        dt = self.period_s if fresh else gap_ns / S
        rates = []
        for i, rule in enumerate(self.rules):
            value = command.values[i]
            assert math.isfinite(value), (i, value)
            measured = None if self.state is None or rule.state is None else self.state[rule.state]
            before = 0.0 if fresh else self._rates[i]
            if rule.form == "value":
                assert rule.low <= value <= rule.high, (i, value)
                rates.append(0.0)
                continue
            rate = value
            if rule.form == "position":
                assert rule.low <= value <= rule.high, (i, value)
                start = min(max(measured, rule.low), rule.high) if fresh and measured is not None else None
                rate = (value - (start if start is not None else self._values[i])) / dt  # type: ignore[index]
                if command.mode == "follow":
                    assert measured is not None and abs(value - measured) <= rule.tracking, (i, value, measured)
            assert abs(rate) <= rule.velocity * (1 + 1e-9), (i, rate)
            assert abs(rate - before) <= rule.acceleration * dt * (1 + 1e-6), (i, before, rate, dt)
            rates.append(rate)
        self._rates = rates
