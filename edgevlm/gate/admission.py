"""What the gate lets in: chunks and states that can be judged. What is refused is refused whole, with a reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgevlm.gate.columns import Column, Orientation
from edgevlm.gate.limits import Cause, GateLimits
from edgevlm.manifest.contract import SECOND_NS, ActionChunk, Contract, Stamped
from edgevlm.temporal import nearest_within

Reason = Literal[
    "not_finite", "names", "shape", "step", "future", "expired", "late", "old", "rotation", "no_state", "unannounced"
]

_STATES_KEPT = 4096  # some seconds at 1 kHz: a slow model's observation must still be among them


@dataclass(frozen=True)
class Refusal:
    """Why an input was dropped."""

    reason: Reason
    detail: str


class States:
    """The measured states of the last while, by stamp. Floats in the contract's order and units."""

    def __init__(
        self, contract: Contract, limits: GateLimits, columns: Sequence[Column], orientations: Sequence[Orientation]
    ) -> None:
        self._size = len(contract.state.fields) if contract.state else 0
        self._names = contract.state.names if contract.state else ()
        self._needed = bool(orientations) or any(column.state is not None for column in columns)
        self._quaternions = [turning.state for turning in orientations if turning.form == "quaternion_xyzw"]
        self._max_age_ns = round(limits.state_max_age_s * SECOND_NS)
        self._future_ns = round(limits.future_s * SECOND_NS)
        self.reset()

    def reset(self) -> None:
        """Forget every state."""
        self._stamps_ns: list[int] = []
        self._values: list[tuple[float, ...]] = []
        self._broken = False

    @property
    def newest(self) -> Stamped[tuple[float, ...]] | None:
        """The newest state, if there is one."""
        return Stamped(self._values[-1], self._stamps_ns[-1]) if self._stamps_ns else None

    def feed(self, state: Stamped[NDArray[np.float32]], now_ns: int) -> Refusal | None:
        """Take a state; None when it was taken."""
        values = np.asarray(state.value, np.float64)
        if values.shape != (self._size,):
            return Refusal("shape", f"state: expected {self._size} numbers {self._names}, got shape {values.shape}")
        if state.stamp_ns > now_ns + self._future_ns:
            return Refusal("future", f"state: its stamp is {(state.stamp_ns - now_ns) / 1e9:.3f} s ahead of the clock")
        if state.stamp_ns < now_ns - self._max_age_ns:
            return Refusal("old", f"state: {(now_ns - state.stamp_ns) / 1e9:.3f} s old on arrival")
        if self._stamps_ns and state.stamp_ns <= self._stamps_ns[-1]:
            return Refusal("late", f"state: its stamp is {self._stamps_ns[-1] - state.stamp_ns} ns before the newest")
        if not (finite := _finite(values)).all():
            self._broken = True
            bad = [name for name, number in zip(self._names, finite, strict=True) if not number]
            return Refusal("not_finite", f"state: not finite: {bad}")
        if any(not _is_rotation(values[list(fields)]) for fields in self._quaternions):
            self._broken = True
            return Refusal("rotation", f"state: a quaternion of length 1 was expected in {values.tolist()}")
        self._broken = False
        self._stamps_ns.append(state.stamp_ns)
        self._values.append(tuple(values.tolist()))
        if len(self._stamps_ns) > 2 * _STATES_KEPT:
            del self._stamps_ns[:_STATES_KEPT], self._values[:_STATES_KEPT]
        return None

    def cause(self, now_ns: int) -> Cause | None:
        """What is wrong with the measured state now."""
        if not self._needed:
            return None
        if self._broken:
            return "state_not_finite"
        if not self._stamps_ns:
            return "state_missing"
        return "state_stale" if now_ns - self._stamps_ns[-1] > self._max_age_ns else None

    def at(self, stamp_ns: int) -> tuple[float, ...] | None:
        """The state nearest to a stamp, None when none is within `state_max_age_s`."""
        index = nearest_within(self._stamps_ns, stamp_ns, self._max_age_ns)
        return None if index is None else self._values[index]


class ChunkCheck:
    """Whether a chunk may be used, and what it means in absolute positions."""

    def __init__(
        self, contract: Contract, limits: GateLimits, columns: Sequence[Column], orientations: Sequence[Orientation]
    ) -> None:
        self._spec, self._names = contract.action, contract.action.names
        self._future_ns = round(limits.future_s * SECOND_NS)
        self._relative = [(i, column) for i, column in enumerate(columns) if column.relative]
        self._quaternions = [list(turning.columns) for turning in orientations if turning.form == "quaternion_xyzw"]

    def __call__(self, chunk: ActionChunk, states: States, now_ns: int) -> ActionChunk | Refusal:
        """The chunk with absolute positions and a validity that its rows can bear, or why not."""
        names = self._names
        if tuple(chunk.names) != names:
            return Refusal("names", f"chunk: expected the columns {names}, got {tuple(chunk.names)}")
        values = np.asarray(chunk.values)
        if values.ndim != 2 or not 0 < len(values) <= self._spec.steps or values.shape[1] != len(names):
            return Refusal("shape", f"chunk: expected up to ({self._spec.steps}, {len(names)}), got {values.shape}")
        if not math.isclose(chunk.step_s, self._spec.step_s, rel_tol=1e-6):
            return Refusal("step", f"chunk: expected rows {self._spec.step_s} s apart, got {chunk.step_s}")
        if not (finite := _finite(values)).all():
            bad = [name for i, name in enumerate(names) if not finite[:, i].all()]
            return Refusal("not_finite", f"chunk {chunk.sequence}: not finite: {bad}")
        if not all(_is_rotation(values[:, part]) for part in self._quaternions):
            return Refusal("rotation", f"chunk {chunk.sequence}: a row's quaternion is not of length 1")
        if chunk.observed_ns > now_ns + self._future_ns:
            return Refusal("future", f"chunk: observed {(chunk.observed_ns - now_ns) / 1e9:.3f} s ahead of the clock")
        until_ns = min(chunk.valid_until_ns, chunk.observed_ns + round(len(values) * self._spec.step_s * SECOND_NS))
        if until_ns < now_ns:
            return Refusal("expired", f"chunk: expired {(now_ns - until_ns) / 1e9:.3f} s before it came")
        if self._relative:
            base = states.at(chunk.observed_ns)
            if base is None:
                return Refusal("no_state", "chunk: relative to the observation, and no state of that time is known")
            values = self._absolute(values, base)
        return replace(chunk, values=values, valid_until_ns=until_ns)

    def _absolute(self, values: NDArray[np.float32], base: tuple[float, ...]) -> NDArray[np.float32]:
        values = values.astype(np.float64)
        for i, column in self._relative:
            assert column.state is not None
            values[:, i] = np.clip(values[:, i], *column.bounds) + base[column.state]
        return values.astype(np.float32)


def _finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which numbers are finite as float32, the resolution of chunks and states."""
    with np.errstate(over="ignore"):
        return np.isfinite(values.astype(np.float32, copy=False))


def _is_rotation(quaternions: NDArray[Any]) -> bool:
    """Whether all (..., 4) are of length 1, as far as a model can be expected to be."""
    lengths = np.linalg.norm(quaternions.astype(np.float64), axis=-1)
    return bool((np.abs(lengths - 1) < 0.1).all())
