"""What was last commanded, and the next command from it: all axes of a robot, one step at a time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edgevlm.clock import Elapsed
from edgevlm.gate.axes import At, Facing, step_orientation, step_position, step_velocity
from edgevlm.gate.columns import Column, Orientation
from edgevlm.gate.rotation import Quaternion, Vector, between, dot, numbers, quaternion
from edgevlm.manifest.contract import SECOND_NS, Stamped

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
