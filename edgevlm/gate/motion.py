"""What was last commanded, and the next command from it: the step that keeps every axis within its limits.

An absolute column is sent as a position, every other moving column as a velocity: a delta relative to the previous
row becomes delta / step_s. The velocity of a position column is (p[k] - p[k-1]) / dt, and acceleration of every
column (v[k] - v[k-1]) / dt, where dt is the time since the command before.

On the system's clock dt is steady time, and a velocity grows by no more than the smaller of data and steady time allows
(`Elapsed`).

An axis can always brake: v may only be so large that from room `d` to a limit
  position columns  v^2 / 2a + v dt <= d   (p moves by v dt at this command; any later dt needs no more room)
  velocity columns  v^2 / 2a + v T  <= d   (v is held until the next command, at most T = command_valid_s later)
holds after the step; braking as hard as the acceleration limit allows keeps both true, whatever the later dt are.

Angular velocity is about the fixed axes: w[k] = log(q[k] q[k-1]^-1) / dt. Angles and their rates are limited by their
magnitude, so a limit does not change the axis of a rotation that begins at rest.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edgevlm.clock import Elapsed
from edgevlm.gate.columns import Column, Orientation
from edgevlm.gate.limits import OrientationLimits
from edgevlm.gate.rotation import (
    Quaternion,
    Vector,
    between,
    dot,
    multiply_unit,
    nearest_turn,
    norm,
    numbers,
    quaternion,
    scaled,
)
from edgevlm.manifest.contract import SECOND_NS, Stamped


def fastest(room: float, acceleration: float, horizon_s: float) -> float:
    """The largest v with v^2 / 2a + v * horizon <= room."""
    if room <= 0:
        return 0.0
    by_horizon = acceleration * horizon_s
    return math.sqrt(by_horizon * by_horizon + 2 * acceleration * room) - by_horizon


def reachable(
    column: Column, velocity: float, elapsed: Elapsed, room: tuple[float, float], horizon_s: float
) -> tuple[float, float]:
    """Lowest and highest next velocity, with the room (below, above) to the limits of the position.

    Where the limits contradict each other (a measured position that jumped towards a limit), acceleration wins: the
    range is then the hardest braking alone. A limit may be braked for as hard as all of the time allows; what is only
    wished for may change by `elapsed.change_s` alone.
    """
    hardest = column.acceleration * max(elapsed)
    slowest, highest = velocity - hardest, velocity + hardest
    low = max(column.lower, -fastest(room[0], column.acceleration, horizon_s))
    high = min(column.upper, fastest(room[1], column.acceleration, horizon_s))
    if column.sent == "position" and elapsed.change_s < elapsed.move_s:
        # Data time runs slower than steady time: the velocity limit holds by both as far as braking can make it.
        share = elapsed.change_s / elapsed.move_s
        low, high = max(low, column.lower * share), min(high, column.upper * share)
    low, high = min(max(low, slowest), highest), min(max(high, slowest), highest)
    change = column.acceleration * elapsed.change_s
    low = min(max(low, velocity - change), high)
    return low, max(min(high, velocity + change), low)


class At(NamedTuple):
    """Where an axis was commanded to be, how fast it went there, and whether limits kept it behind its target."""

    position: float
    velocity: float
    behind: bool


def step_position(column: Column, at: At, target: float | None, elapsed: Elapsed, remaining: float) -> At:
    """The next command; `behind` says that a limit changed it. None brakes.

    `target` is meant to be reached `remaining` seconds after the command before. What the limits allow is done exactly
    so; an axis that fell behind catches up no faster than it can stop at the target. Outside its range an axis may only
    come back, at the speed that its limits allow. A joint without ends turns the shorter way.
    """
    dt = elapsed.move_s
    room = (at.position - column.low, column.high - at.position)
    low, high = reachable(column, at.velocity, elapsed, room, dt)
    if target is None:
        chosen = min(max(0.0, low), high)
        return At(_within(column, at.position, chosen * dt), chosen, False)
    target = nearest_turn(target, at.position, column.period) if column.period else target
    inside = min(max(target, column.low), column.high)
    requested = (inside - at.position) / max(dt, remaining)
    if low <= requested <= high and not (at.behind and abs(requested) > abs(at.velocity)):
        if remaining <= dt:
            return At(inside, requested, inside != target)
        chosen = requested
    else:
        stoppable = fastest(abs(inside - at.position), column.acceleration, dt)
        chosen = min(max(min(max(requested, -stoppable), stoppable), low), high)
    limited = chosen != requested or inside != target
    return At(_within(column, at.position, chosen * dt), chosen, limited)


def _within(column: Column, position: float, change: float) -> float:
    """The position after a change; no further outside its range than before."""
    return min(max(position + change, min(column.low, position)), max(column.high, position))


def step_velocity(
    column: Column, position: float | None, velocity: float, target: float | None, elapsed: Elapsed, horizon_s: float
) -> tuple[float, bool]:
    """Next velocity, and whether a limit changed it; None brakes. `position`: where the axis is now, if measured."""
    room = (math.inf, math.inf) if position is None else (position - column.low, column.high - position)
    low, high = reachable(column, velocity, elapsed, room, horizon_s)
    chosen = min(max(0.0 if target is None else target, low), high)
    return chosen, target is not None and chosen != target


class Facing(NamedTuple):
    """How a body was commanded to be turned, how fast it turned there, and whether limits kept it behind its target."""

    q: Quaternion
    rate: Vector
    behind: bool


def step_orientation(
    limits: OrientationLimits, at: Facing, target: Quaternion | None, elapsed: Elapsed, remaining: float
) -> Facing:
    """The next command, by the rules of `step_position`; `behind` says that a limit changed it. None brakes."""
    dt, change = elapsed.move_s, limits.acceleration * elapsed.change_s
    velocity = limits.velocity * (elapsed.change_s / dt if elapsed.change_s < dt else 1.0)
    if target is None:
        chosen = _towards(at.rate, (0.0, 0.0, 0.0), change)
        return Facing(multiply_unit(scaled(chosen, dt), at.q), chosen, False)
    turn = between(at.q, target)
    angle = norm(turn)
    requested_rate = scaled(turn, 1 / max(dt, remaining))
    speed = norm(requested_rate)
    allowed = speed <= velocity and norm(_minus(requested_rate, at.rate)) <= change
    if allowed and not (at.behind and speed > norm(at.rate)):
        exact = remaining <= dt
        return Facing(target if exact else multiply_unit(scaled(requested_rate, dt), at.q), requested_rate, False)
    speed = min(speed, velocity, fastest(angle, limits.acceleration, dt))
    chosen = _towards(at.rate, scaled(turn, speed / angle) if angle else turn, change)
    return Facing(multiply_unit(scaled(chosen, dt), at.q), chosen, True)


def _towards(start: Vector, end: Vector, most: float) -> Vector:
    """From `start` to `end`, but no further than `most`."""
    difference = _minus(end, start)
    distance = norm(difference)
    if distance <= most:
        return end
    share = most / distance
    return start[0] + share * difference[0], start[1] + share * difference[1], start[2] + share * difference[2]


def _minus(a: Vector, b: Vector) -> Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


_SENT_KEPT = 1024  # far more than fit between two states that are fresh enough to act on


@dataclass(frozen=True)
class Step:
    """A command that limits have shaped: `values` and their rates (A,), and the columns that limits changed."""

    values: tuple[float, ...]
    rates: tuple[float, ...]
    limited: tuple[int, ...]


class Motion:
    """Proposes commands and remembers the one that was sent. At rest while nothing is being commanded.

    Times are those in which the robot moves: steady time, or a simulation's own.

    Args:
        horizon_s: the longest a velocity can stay in force without a new command.
    """

    def __init__(self, columns: Sequence[Column], orientations: Sequence[Orientation], horizon_s: float) -> None:
        self._columns = tuple(columns)
        self._orientations = tuple(orientations)
        self._horizon_s = horizon_s
        self._sent: deque[tuple[int, tuple[float, ...]]] = deque(maxlen=_SENT_KEPT)  # (since, rates), oldest first
        self._values: tuple[float, ...] | None = None
        self._rates = (0.0,) * len(self._columns)
        self._limited: tuple[int, ...] = ()
        self._sent_q: dict[int, Quaternion] = {}  # of each orientation, by its first column: outlives `release`

    @property
    def values(self) -> tuple[float, ...] | None:
        """The command in force, or None."""
        return self._values

    @property
    def at_rest(self) -> bool:
        """Whether the command in force moves nothing."""
        return not any(self._rates)

    def release(self) -> None:
        """Nothing is commanded any more: the robot comes to rest by its own means."""
        self._values = None
        self._rates, self._limited = (0.0,) * len(self._columns), ()
        self._sent.clear()

    def start(self, state: Sequence[float] | None, target: Sequence[float]) -> bool:
        """Begin from rest where the robot is measured, in its range or beside it.

        False when that is outside by more than `tracking`: a person must bring it back.
        """
        values = []
        for i, column in enumerate(self._columns):
            if column.sent == "position":
                assert column.state is not None and state is not None
                measured = state[column.state]
                inside = min(max(measured, column.low), column.high)
                if abs(measured - inside) > column.tracking:
                    return False
                values.append(measured)
            else:
                values.append(0.0 if column.sent == "velocity" else _bounded(column, target[i]))
        for turning in self._orientations:
            assert state is not None
            measured_numbers = [state[field] for field in turning.state]
            q = quaternion(turning.form, measured_numbers)
            before = self._sent_q.get(turning.columns[0], q)
            aligned = measured_numbers if dot(q, before) >= 0 else numbers(turning.form, q, before)
            for i, value in zip(turning.columns, aligned, strict=True):
                values[i] = value
        self._values = tuple(values)
        return True

    def propose(
        self,
        target: Sequence[float] | None,
        state: Stamped[tuple[float, ...]] | None,
        now_ns: int,
        elapsed: Elapsed,
        remaining: float,
    ) -> Step:
        """The next command towards the row `target`, or braking; nothing is remembered before `commit`."""
        assert self._values is not None
        values, rates, limited = list(self._values), [0.0] * len(self._columns), []
        for i, column in enumerate(self._columns):
            requested = None if target is None else target[i]
            if requested is None and not self._rates[i] and column.sent in ("position", "velocity"):
                continue  # an axis that rests goes on resting: every limit allows that
            if column.sent == "position":
                at = At(self._values[i], self._rates[i], i in self._limited)
                if column.period and requested is not None and not column.relative:
                    requested = min(max(requested, column.bounds[0]), column.bounds[1])
                values[i], rates[i], changed = step_position(column, at, requested, elapsed, remaining)
            elif column.sent == "velocity":
                requested = None if requested is None else requested / column.divide_s
                here = self._here(i, column, state, now_ns)
                rates[i], changed = step_velocity(column, here, self._rates[i], requested, elapsed, self._horizon_s)
                values[i] = rates[i]
            elif column.sent == "value" and requested is not None:
                values[i] = _bounded(column, requested)
                changed = values[i] != requested
            else:
                continue
            if changed:
                limited.append(i)
        for turning in self._orientations:
            if self._turn(turning, target, values, rates, (elapsed, remaining)):
                limited.append(turning.columns[0])
        return Step(tuple(values), tuple(rates), tuple(limited))

    def _turn(
        self,
        turning: Orientation,
        target: Sequence[float] | None,
        values: list[float],
        rates: list[float],
        times: tuple[Elapsed, float],
    ) -> bool:
        """One orientation's next values and rates, in place; whether a limit changed it."""
        before = [values[i] for i in turning.columns]
        x, y, z = turning.columns[:3]
        rate: Vector = (self._rates[x], self._rates[y], self._rates[z])
        at = Facing(quaternion(turning.form, before), rate, x in self._limited)
        requested = None if target is None else [target[i] for i in turning.columns]
        goal = None if requested is None else quaternion(turning.form, requested)
        after = step_orientation(turning.limits, at, goal, *times)
        # A quaternion is always sent with length 1; other forms as they were given. None changes its sign on the way.
        exact = after.q is goal and turning.form != "quaternion_xyzw" and dot(after.q, at.q) >= 0
        sent = requested if requested is not None and exact else numbers(turning.form, after.q, at.q)
        for i, value in zip(turning.columns, sent, strict=True):
            values[i] = value
        rates[x], rates[y], rates[z] = after.rate
        return after.behind

    def commit(self, step: Step, now_ns: int, state_ns: int | None) -> None:
        """This step was sent now; `state_ns` is the stamp of the newest measured state."""
        self._values, self._rates, self._limited = step.values, step.rates, step.limited
        for turning in self._orientations:
            sent = [step.values[i] for i in turning.columns]
            self._sent_q[turning.columns[0]] = quaternion(turning.form, sent)
        if self._sent and now_ns <= self._sent[-1][0]:  # simulated time that stands or restarted
            self._sent.clear()
        # The same rates go on: one entry, however long a robot is told to rest without a new state.
        if not self._sent or self._sent[-1][1] != step.rates:
            self._sent.append((now_ns, step.rates))
        oldest_ns = now_ns if state_ns is None else state_ns
        while len(self._sent) > 1 and self._sent[1][0] <= oldest_ns:
            self._sent.popleft()

    def tracking_error(self, values: Sequence[float], state: Sequence[float] | None) -> bool:
        """Whether a commanded position would be further from the measured one than `tracking`."""
        for value, column in zip(values, self._columns, strict=True):
            measured = None if state is None or column.state is None else state[column.state]
            if column.sent == "position" and measured is not None:
                apart = value - measured
                if abs(math.remainder(apart, column.period) if column.period else apart) > column.tracking:
                    return True
        for turning in self._orientations:
            if state is not None and _angle(turning, values, state) > turning.limits.tracking:
                return True
        return False

    def _here(self, i: int, column: Column, state: Stamped[tuple[float, ...]] | None, now_ns: int) -> float | None:
        """The measured position, carried on by what was sent since it was measured."""
        if column.state is None or state is None:
            return None
        here, until_ns = state.value[column.state], now_ns
        for since_ns, rates in reversed(self._sent):
            from_ns = max(since_ns, state.stamp_ns)
            here += rates[i] * max(0, until_ns - from_ns) / SECOND_NS
            until_ns = min(until_ns, since_ns)
            if since_ns <= state.stamp_ns:
                break
        return here


def _bounded(column: Column, value: float) -> float:
    return min(max(value, column.lower), column.upper)


def _angle(turning: Orientation, values: Sequence[float], state: Sequence[float]) -> float:
    sent = quaternion(turning.form, [values[i] for i in turning.columns])
    return math.hypot(*between(sent, quaternion(turning.form, [state[i] for i in turning.state])))
