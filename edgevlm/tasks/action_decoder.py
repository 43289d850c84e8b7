"""What a model puts out -> actions and plans in the units of the contract.

Numbers that are not finite never pass, nor an action far outside the contract's bounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import ActionRangeError, NonFiniteError, ShapeError
from edgevlm.manifest.contract import SECOND_NS, ActionSpec, Plan, PlanSpec, StateSpec

# An action this many times as far outside the bounds as they are apart is no action but a broken model. Less is left to
# the gate, which cuts it: bounds are often drawn narrower than the training's for a first run on a robot.
FAR = 10.0


def _output(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if array.shape != (1, *shape):
        raise ShapeError(f"model output {name!r}: expected {(1, *shape)}, got {array.shape}; export the bundle again")
    return np.asarray(array[0], np.float32)


def _finite(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Checked in physical units, last: a finite model output can still overflow when it is scaled."""
    if not np.isfinite(array).all():
        raise NonFiniteError(
            f"model output {name!r}: expected finite numbers, got NaN or infinity, so no action was put out; "
            "stop the robot, then run: edgevlm verify BUNDLE"
        )
    return array


class ActionDecoder:
    """Normalised chunk (1, K, A) -> float32 (K, A) in physical units."""

    def __init__(self, spec: ActionSpec) -> None:
        self._shape = (spec.steps, len(spec.names))
        self._scale, self._offset = spec.column("scale"), spec.column("offset")
        self._spec = spec
        lower, upper = (spec.column(key).astype(np.float64) for key in ("lower", "upper"))
        self._lowest, self._highest = lower - FAR * (upper - lower), upper + FAR * (upper - lower)

    def __call__(self, chunk: NDArray[Any]) -> NDArray[np.float32]:
        """Raises ActionRangeError, NonFiniteError and ShapeError."""
        with np.errstate(all="ignore"):
            values = _finite("chunk", _output("chunk", chunk, self._shape) * self._scale + self._offset)
        far = (values < self._lowest) | (values > self._highest)
        if far.any():
            raise self._far(values, far)
        return values

    def _far(self, values: NDArray[np.float32], far: NDArray[np.bool_]) -> ActionRangeError:
        row, column = (int(at) for at in np.argwhere(far)[0])
        spec = self._spec
        lower, upper = (float(spec.column(key)[column]) for key in ("lower", "upper"))
        return ActionRangeError(
            f"action {spec.names[column]!r}, row {row}: expected {lower:g} to {upper:g} {spec.units[column]} as the "
            f"contract says, got {float(values[row, column]):g}, which is over {FAR:g} times as far outside as "
            "these are apart, so no action was put out; stop the robot, then run: edgevlm verify BUNDLE"
        )


class PlanDecoder:
    """Normalised waypoints (1, P, D) and step logits (1, S) -> `Plan`."""

    def __init__(self, spec: PlanSpec, state: StateSpec | None) -> None:
        self._spec = spec
        self._scale = np.array(spec.scale, np.float32)
        self._offset = np.array(spec.offset, np.float32)
        names = state.names if state else ()
        self._base = [names.index(name) for name in spec.relative_to]
        self._offsets_ns = tuple(round(offset * SECOND_NS) for offset in spec.waypoint_offsets_s)

    def __call__(
        self, waypoints: NDArray[Any], step_logits: NDArray[Any], state: NDArray[np.float32] | None, observed_ns: int
    ) -> Plan:
        """`state` (S,) in physical units is what waypoints are relative to. Raises NonFiniteError and ShapeError."""
        spec = self._spec
        points = _output("waypoints", waypoints, (len(self._offsets_ns), len(spec.names)))
        logits = _finite("step_logits", _output("step_logits", step_logits, (len(spec.steps),)))
        with np.errstate(all="ignore"):
            points = points * self._scale + self._offset
            if self._base and state is not None:
                points = points + state[self._base]
            points = _finite("waypoints", points)
            weights = np.exp(logits - logits.max())
            confidence = weights / weights.sum()
        return Plan(
            waypoints=points,
            stamps_ns=tuple(observed_ns + offset for offset in self._offsets_ns),
            names=spec.names,
            units=spec.units,
            frame_id=spec.frame_id,
            steps=spec.steps,
            confidence=confidence,
        )
