"""Random sequences of everything that reaches a gate, with a robot that is pushed and clocks that do as they like.

A storm is made by its seed: the contract's orientation form, the executor, the fallbacks, whose time it is, and then
some hundred commands. Every command is judged by `gate_judge.Judge`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support import gate_judge
from support.gate_judge import PERIOD_S, VALID_S, Judge, Rule, S, Turning
from support.rotations import FORMS, Form, matrix, vector_of

from edgevlm.clock import TimeSource
from edgevlm.gate.chunking import ConsumptionIndexed, Executor, LatestChunk, RecedingHorizon, TemporalEnsemble
from edgevlm.gate.gate import Gate, GateCommand
from edgevlm.gate.limits import FALLBACKS, GateLimits
from edgevlm.manifest.contract import ActionGroup, Contract, Stamped, StateField

EXECUTORS: tuple[Callable[[], Executor], ...] = (
    LatestChunk,
    lambda: TemporalEnsemble(0.1),
    lambda: RecedingHorizon(TemporalEnsemble(0.5), 2),
    ConsumptionIndexed,
)
WRIST = ("wrist", "m", 3.0, 9.0, 0.5)  # a joint without ends: its name, its state field, and its limits
PERIOD_NS = round(PERIOD_S * S)


def storm_contract(form: Form) -> Contract:
    """A joint, a velocity, a joint without ends, a hand's orientation and a gripper."""
    turning = gate_judge.group("ee_pose", _names(form), "1", 7.0, rotation=form)
    groups: tuple[ActionGroup, ...] = (
        gate_judge.group("joint_position", ("shoulder",), "rad", 1.25, lower=-1.5),
        gate_judge.group("ee_delta", ("dx",), "m", 0.04, relative_to="previous"),
        gate_judge.group("joint_position", ("wrist",), "rad", 4.0),
        turning,
        gate_judge.group("gripper", ("grip",), "1", 1.0),
    )
    fields = ("at_shoulder", "at_x", "at_wrist", *(f"at_{name}" for name in _names(form)))
    return gate_judge.contract(groups, tuple(StateField(name=name, unit="1") for name in fields))


def _names(form: Form) -> tuple[str, ...]:
    return ("qx", "qy", "qz", "qw") if form == "quaternion_xyzw" else ("rx", "ry", "rz")


def storm_rules(form: Form) -> tuple[tuple[Rule, ...], tuple[Turning, ...]]:
    """The limits of `storm_contract`, for the judge."""
    count = len(_names(form))
    rules = (
        Rule("position", -1.0, 1.25, velocity=0.8, acceleration=3.0, tracking=0.3, state=0),
        Rule("velocity", -0.5, 0.5, velocity=0.3, acceleration=1.5, state=1),
        Rule("position", -math.inf, math.inf, 3.0, 9.0, tracking=0.5, state=2, period=math.tau),
        *[Rule("turning", 0.0, 0.0)] * count,
        Rule("value", -1.0, 1.0),
    )
    columns = tuple(range(3, 3 + count))
    return rules, (Turning(columns, columns, form, velocity=2.0, acceleration=8.0, tracking=0.6),)


def storm_limits(form: Form, **more: Any) -> GateLimits:
    """The limits of `storm_contract`, for the gate."""
    keys = ("action", "state", "position", "velocity", "acceleration", "tracking", "continuous")
    axes = (
        ("shoulder", "at_shoulder", (-1.0, 2.0), 0.8, 3.0, 0.3, False),
        ("dx", "at_x", (-0.5, 0.5), 0.3, 1.5, None, False),
        ("wrist", "at_wrist", None, 3.0, 9.0, 0.5, True),
    )
    names = _names(form)
    turning: dict[str, Any] = {"actions": names, "state": tuple(f"at_{name}" for name in names)}
    turning |= {"velocity": 2.0, "acceleration": 8.0, "tracking": 0.6}
    values = {**gate_judge.limits(), "axes": [dict(zip(keys, axis, strict=True)) for axis in axes]}
    return GateLimits(**{**values, "orientations": (turning,), **more})


class Storm:
    """One sequence; `command` and what it calls go by the luck of the seed.

    Attributes:
        judged: commands with values that the judge took.
        gate: to look at its counts.
    """

    def __init__(self, seed: int) -> None:
        self.luck = luck = np.random.default_rng(seed)
        self.form: Form = FORMS[luck.integers(3)]
        times: tuple[TimeSource, ...] = ("system", "simulated")
        time = times[luck.integers(2)]
        modes = ("hold", "decelerate", "stop")
        fallbacks = {cause: modes[luck.integers(3)] for cause in FALLBACKS if cause != "estop"}
        limits = storm_limits(
            self.form,
            time=time,
            fallbacks=fallbacks if luck.random() < 0.5 else {},
            recover_after_s=float(luck.choice([0.0, 0.05, 0.2])),
        )
        self.gate = Gate(storm_contract(self.form), limits, EXECUTORS[luck.integers(len(EXECUTORS))]())
        rules, turning = storm_rules(self.form)
        self.judge = Judge(rules, PERIOD_S, VALID_S, time, turning)
        self.ros_ns, self.steady_ns, self.sequence = 1000 * S, 5 * S, 0
        self.joints = luck.normal(0, 0.5, 3)
        self.hand = luck.normal(0, 1.0, 3)  # a rotation vector
        self.speed = float(luck.choice([1.0, 1.0, 1.0, 0.1, 0.5, 0.97, 1.03, 3.0]))  # of data time
        self.lag = float(luck.choice([0.05, 0.7, 1.0]))

    def run(self, commands: int = 150) -> None:
        """All of it."""
        for _ in range(commands):
            self.step()

    @property
    def judged(self) -> int:
        return self.judge.judged

    def step(self) -> None:
        """Time passes, some of what may come comes, then a command."""
        luck = self.luck.random(8)
        self._pass_time()
        if luck[0] < 0.02:
            self._push()
        if luck[1] < 0.93:
            self._state(self.luck.random() < 0.01)
        if luck[2] < 0.9:
            self.judge.time_is(self.ros_ns)
            self.gate.heartbeat(self.ros_ns, self.steady_ns, self.ros_ns)
        if luck[3] < 0.3:
            self._chunk()
        if luck[4] < 0.01:
            self.gate.estop(True)
        elif luck[4] < 0.05:
            self.gate.estop(False)
            self.gate.rearm()
        if luck[5] < 0.01:
            self.gate.conflict(["command/twist"] if luck[6] < 0.4 else [])
        for _ in range(1 + (luck[7] < 0.05)):
            self.command()

    def command(self) -> GateCommand:
        """One command, judged, and the robot moves."""
        command = self.gate.command(self.ros_ns, self.steady_ns)
        self.judge.command(command, self.ros_ns, self.steady_ns)
        if command.values is not None:
            self._move(command.values)
        return command

    def _pass_time(self) -> None:
        luck = self.luck
        gap_ns = (
            PERIOD_NS if luck.random() < 0.85 else int(luck.choice([0, 1_000, 15_000_000, 69_000_000, 400_000_000]))
        )
        gap_ns += int(luck.normal(0, 300_000)) if gap_ns == PERIOD_NS else 0
        self.steady_ns += gap_ns
        self.ros_ns += round(gap_ns * self.speed)
        kind = luck.random()
        if kind < 0.03:  # a step of any size, either way
            self.ros_ns += int(luck.choice([-1, 1]) * 10 ** luck.uniform(3, 9.8))
        elif kind < 0.06:  # it stands still
            self.ros_ns -= round(gap_ns * self.speed)
        elif kind < 0.065:
            self.speed = float(luck.choice([0.0, 0.2, 0.9, 1.0, 1.0, 1.0, 1.0001, 1.5]))

    def _push(self) -> None:
        far = 10.0 ** self.luck.uniform(-2, 1)
        self.joints = self.joints + self.luck.normal(0, far, 3)
        if self.luck.random() < 0.5:
            self.hand = self.luck.normal(0, 1.5, 3)
        if self.luck.random() < 0.3:
            self.joints = self.joints.clip(-1, 1)

    def _state(self, broken: bool) -> None:
        joints = self.joints.copy()
        joints[2] = math.remainder(joints[2], math.tau)  # the encoder's number
        values = np.array([*joints, *self._facing()], np.float32)
        if broken:
            values[self.luck.integers(len(values))] = self.luck.choice([np.nan, np.inf, 1e30])
        stamp_ns = self.ros_ns - int(self.luck.choice([0, 0, 5_000_000, 30_000_000, -10_000_000]))
        self.judge.time_is(self.ros_ns)
        if self.gate.feed_state(Stamped(values, stamp_ns), self.ros_ns) is None:
            self.judge.state(values.tolist())

    def _facing(self) -> NDArray[np.float64]:
        """The hand's orientation in the contract's form, with whatever sign comes."""
        angle = float(np.linalg.norm(self.hand))
        if self.form == "rotation_vector":
            return self.hand
        if self.form == "quaternion_xyzw":
            axis = self.hand / angle if angle else self.hand
            q = np.array([*(axis * math.sin(angle / 2)), math.cos(angle / 2)])
            return q if self.luck.random() < 0.5 else -q
        m = matrix("rotation_vector", self.hand.tolist())
        pitch = math.asin(max(-1.0, min(1.0, -m[2, 0])))
        return np.array([math.atan2(m[2, 1], m[2, 2]), pitch, math.atan2(m[1, 0], m[0, 0])])

    def _chunk(self) -> None:
        luck, count = self.luck, int(self.luck.integers(1, 9))
        size = 10.0 ** luck.uniform(-2, 1)
        arm = luck.normal(0, size, (count, 3)) + [*self.joints[:1], 0.0, math.remainder(self.joints[2], math.tau)]
        arm[:, 1] *= 0.05
        turns = np.array([self._row(self.hand + luck.normal(0, min(size, 3.0), 3)) for _ in range(count)])
        rows = np.hstack([arm, turns, luck.normal(0, 1, (count, 1))]).astype(np.float32)
        if luck.random() < 0.02:
            rows[luck.integers(count), luck.integers(rows.shape[1])] = luck.choice([np.nan, np.inf, 1e30])
        observed_ns = self.ros_ns - int(luck.choice([0, 0, 20_000_000, 100_000_000]))
        self.sequence += 1
        names = ("shoulder", "dx", "wrist", *_names(self.form), "grip")
        chunk = gate_judge.chunk(rows, observed_ns, self.sequence, names)
        self.judge.chunk(chunk)
        self.judge.time_is(self.ros_ns)
        self.gate.feed(chunk, self.ros_ns, self.steady_ns)

    def _row(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        before, self.hand = self.hand, vector
        try:
            return self._facing()
        finally:
            self.hand = before

    def _move(self, values: tuple[float, ...]) -> None:
        """The robot follows with a lag; its hand is where it was sent, or stays."""
        self.joints[0] += self.lag * (values[0] - self.joints[0])
        self.joints[1] += values[1] * PERIOD_S
        self.joints[2] += self.lag * math.remainder(values[2] - self.joints[2], math.tau)
        if self.lag > 0.1:
            self.hand = vector_of(matrix(self.form, values[3:-1]))
