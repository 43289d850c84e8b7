"""Two models on the same observations: how far their actions are apart, when, and where most."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.gate.columns import rotations
from edgevlm.gate.rotation import RotationForm, nearest_turn, numbers, quaternion
from edgevlm.loop.worker import Acted
from edgevlm.manifest.contract import ActionChunk, Contract
from edgevlm.replay.replay import Turn

_WAITING = 1024  # observations of one model that the other one may still act on


@dataclass(frozen=True)
class Apart:
    """One observation that both acted on.

    Attributes:
        errors: |a - b| of each action column, the largest over the chunk's rows, in the column's unit. (A,)
    """

    stamp_ns: int
    instruction: str
    errors: NDArray[np.float64]


@dataclass(frozen=True)
class Worst:
    """The value of an observation's chunks that is furthest apart, measured in the column's range."""

    stamp_ns: int
    instruction: str
    column: str
    unit: str
    row: int
    a: float
    b: float
    error: float


class Comparison:
    """Takes turns of the lanes "a" and "b" and pairs them by the stamp of the observation.

    Attributes:
        apart: every observation that both acted on.
    """

    def __init__(self, contract: Contract, worst: int = 10) -> None:
        action = contract.action
        self._names, self._units, self._limit = action.names, action.units, worst
        self._rotations = rotations(contract)
        self._range = (action.column("upper") - action.column("lower")).astype(np.float64)
        self._waiting: dict[str, OrderedDict[int, ActionChunk]] = {"a": OrderedDict(), "b": OrderedDict()}
        self._dropped = {"a": 0, "b": 0}
        self._heap: list[tuple[float, int, Worst]] = []
        self.apart: list[Apart] = []

    def add(self, turn: Turn) -> Apart | None:
        """Take a turn; the difference, when the other model has acted on the same observation before."""
        if not isinstance(turn.outcome, Acted):
            return None
        chunk = turn.outcome.chunk
        mine, other = turn.lane, "b" if turn.lane == "a" else "a"
        partner = self._waiting[other].pop(chunk.observed_ns, None)
        if partner is None:
            waiting = self._waiting[mine]
            self._dropped[mine] += chunk.observed_ns in waiting
            waiting[chunk.observed_ns] = chunk
            while len(waiting) > _WAITING:
                waiting.popitem(last=False)
                self._dropped[mine] += 1
            return None
        a, b = (chunk, partner) if mine == "a" else (partner, chunk)
        return self._compare(turn.outcome.observation.instruction, a, b)

    def _compare(self, instruction: str, a: ActionChunk, b: ActionChunk) -> Apart:
        theirs = numbers_near(a.values, b.values, self._rotations)
        errors = np.abs(a.values.astype(np.float64) - theirs)  # (K, A)
        apart = Apart(a.observed_ns, instruction, errors.max(axis=0))
        self.apart.append(apart)
        shares = errors / self._range
        row, column = np.unravel_index(int(np.argmax(shares)), errors.shape)
        worst = Worst(
            stamp_ns=a.observed_ns,
            instruction=instruction,
            column=self._names[column],
            unit=self._units[column],
            row=int(row),
            a=float(a.values[row, column]),
            b=float(theirs[row, column]),
            error=float(errors[row, column]),
        )
        entry = (float(shares[row, column]), -len(self.apart), worst)  # of equal ones the first
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, entry)
        elif self._heap:
            heapq.heappushpop(self._heap, entry)
        return apart

    @property
    def worst(self) -> list[Worst]:
        """The observations that are furthest apart, the worst first."""
        return [worst for _, _, worst in sorted(self._heap, reverse=True)]

    @property
    def alone(self) -> dict[str, int]:
        """Observations that only this model acted on."""
        return {lane: self._dropped[lane] + len(waiting) for lane, waiting in self._waiting.items()}

    def columns(self) -> dict[str, dict[str, Any]]:
        """For each action column its unit and the mean, p99 and max over observations; zeros without any."""
        errors = np.array([apart.errors for apart in self.apart]).reshape(-1, len(self._names))
        if not len(errors):
            errors = np.zeros((1, len(self._names)))
        p99 = np.percentile(errors, 99, axis=0)
        return {
            name: {
                "unit": self._units[i],
                "mean": float(errors[:, i].mean()),
                "p99": float(p99[i]),
                "max": float(errors[:, i].max()),
            }
            for i, name in enumerate(self._names)
        }

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "observations": len(self.apart),
            "alone": self.alone,
            "columns": self.columns(),
            "worst": [asdict(worst) for worst in self.worst],
        }


def numbers_near(
    a: NDArray[np.float32], b: NDArray[np.float32], rotations: Sequence[tuple[RotationForm, tuple[int, ...]]]
) -> NDArray[np.float64]:
    """The rows of `b` (K, A), orientations in the numbers nearest to those of `a`: q and -q are no difference."""
    values = b.astype(np.float64)
    for form, columns in rotations:
        part = list(columns)
        for row, (ours, theirs) in enumerate(zip(a[:, part].tolist(), b[:, part].tolist(), strict=True)):
            values[row, part] = _same_rotation(form, theirs, ours)
    return values


def _same_rotation(form: RotationForm, theirs: Sequence[float], ours: Sequence[float]) -> Sequence[float]:
    """The rotation `theirs` in the numbers nearest to `ours`; the length of a quaternion stays as it is."""
    if form == "rpy":
        roll, pitch, yaw = theirs
        ways = ((roll, pitch, yaw), (roll + math.pi, math.pi - pitch, yaw + math.pi))
        turned = [[nearest_turn(x, near, math.tau) for x, near in zip(way, ours, strict=True)] for way in ways]
        return min(turned, key=lambda way: math.dist(way, ours))
    if not any(ours) or not any(theirs):
        return theirs  # four zeros are no rotation, and no turn lies nearest to its own beginning
    near, q = quaternion(form, ours), quaternion(form, theirs)
    if sum(x * y for x, y in zip(near, q, strict=True)) >= 0:
        return theirs
    return [-x for x in theirs] if form == "quaternion_xyzw" else numbers(form, q, near)
