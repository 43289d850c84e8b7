"""How far a bundle is from its judge: for each stage, and for actions and plans in their units."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.data.pictures import PictureData
from edgevlm.errors import FidelityError
from edgevlm.gate.columns import rotations
from edgevlm.manifest.contract import Contract
from edgevlm.replay.comparison import numbers_near
from edgevlm_export.fidelity.policy import Decision

CONSTANT = 1e-6  # of the largest number: what varies by less is constant


@dataclass(frozen=True)
class StageFigures:
    """One stage in one form: cosine of its flattened outputs and the largest difference, over `runs` runs."""

    stage: str
    form: str
    cosine_mean: float
    cosine_min: float
    max_abs_error: float
    runs: int


@dataclass(frozen=True)
class ErrorFigures:
    """Absolute differences of one column, or of all columns of one unit, over every step and row.

    Orientations are compared as rotations: in whichever of their numbers are nearest, as q and -q are.
    """

    name: str
    unit: str
    form: str
    mean: float
    p99: float
    worst: float


@dataclass(frozen=True)
class PlanFigures:
    """Waypoints: distance between the two points in `unit`; steps: how often both name the same one."""

    form: str
    unit: str
    mean: float
    p99: float
    worst: float
    step_agreement: float


class StageMeter:
    """Collects stage outputs beside those of the judge."""

    def __init__(self) -> None:
        self._cosines: dict[str, list[float]] = defaultdict(list)
        self._errors: dict[str, float] = defaultdict(float)

    def add(self, stage: str, got: Mapping[str, NDArray[Any]], want: Mapping[str, NDArray[Any]]) -> None:
        """One run of `stage`; every output counts."""
        for name, expected in want.items():
            self._cosines[stage].append(cosine(got[name], expected))
            self._errors[stage] = max(self._errors[stage], float(np.abs(got[name] - expected).max()))

    def figures(self, form: str) -> tuple[StageFigures, ...]:
        """One row for each stage seen."""
        return tuple(
            StageFigures(stage, form, float(np.mean(values)), min(values), self._errors[stage], len(values))
            for stage, values in self._cosines.items()
        )


class ActionMeter:
    """Collects decisions beside those of the judge."""

    def __init__(self, contract: Contract) -> None:
        self._contract, self._rotations = contract, rotations(contract)
        self._errors: list[NDArray[np.float64]] = []  # each (K, A)
        self._distances: list[NDArray[np.float64]] = []  # each (P,)
        self._agreed: list[bool] = []

    def add(self, got: Decision, want: Decision) -> None:
        """One step."""
        near = numbers_near(want.values, got.values, self._rotations)
        self._errors.append(np.abs(near - want.values))
        if got.plan is not None and want.plan is not None:
            gap = got.plan.waypoints.astype(np.float64) - want.plan.waypoints
            self._distances.append(np.linalg.norm(gap, axis=-1))
            self._agreed.append(got.plan.step == want.plan.step)

    @property
    def steps(self) -> int:
        """Decisions compared."""
        return len(self._errors)

    def normalized(self) -> NDArray[np.float64]:
        """Errors (N, K, A) in the model's own units, so that columns of different units can be put together."""
        scale = np.abs(self._contract.action.column("scale")).astype(np.float64)
        return np.stack(self._errors) / np.where(scale > 0, scale, 1.0)

    def columns(self, form: str) -> tuple[ErrorFigures, ...]:
        """One row for each column of the chunk."""
        action, errors = self._contract.action, np.stack(self._errors)
        return tuple(
            ErrorFigures(name, unit, form, *_spread(errors[..., i]))
            for i, (name, unit) in enumerate(zip(action.names, action.units, strict=True))
        )

    def units(self, form: str) -> tuple[ErrorFigures, ...]:
        """One row for each kind of controller and unit: metres of a hand and gripper units stay apart."""
        errors, start = np.stack(self._errors), 0
        parts: dict[tuple[str, str], list[NDArray[np.float64]]] = defaultdict(list)
        for group in self._contract.action.groups:
            for i, unit in enumerate(group.units):
                parts[group.kind, unit].append(errors[..., start + i])
            start += len(group.names)
        return tuple(ErrorFigures(kind, unit, form, *_spread(np.stack(part))) for (kind, unit), part in parts.items())

    def plan(self, form: str) -> PlanFigures | None:
        """Of the plan, where the contract has one."""
        if not self._distances or self._contract.plan is None:
            return None
        unit = "/".join(dict.fromkeys(self._contract.plan.units))
        return PlanFigures(form, unit, *_spread(np.stack(self._distances)), float(np.mean(self._agreed)))


def cosine(left: NDArray[Any], right: NDArray[Any]) -> float:
    """Of the flattened arrays, in float64; 1.0 for two zero vectors, 0.0 if only one is."""
    a, b = np.asarray(left, np.float64).ravel(), np.asarray(right, np.float64).ravel()
    # Plain sums: a BLAS dot product of this size starts threads, which takes longer than the sum on a busy machine.
    squares = float((a * a).sum()), float((b * b).sum())
    if 0.0 in squares:
        return float(squares[0] == squares[1])
    return min(1.0, float((a * b).sum()) / float(np.sqrt(squares[0] * squares[1])))


def centred_cosine(got: NDArray[Any], want: NDArray[Any], axis: int = 0) -> float:
    """Of what varies along `axis`: both without the mean of `want` over it, in one vector.

    A bias that is always the same cannot hide a lost answer then. What does not vary at all is compared as it is.
    """
    left, right = np.asarray(got, np.float64), np.asarray(want, np.float64)
    mean = right.mean(axis=axis, keepdims=True)
    if float(np.abs(right - mean).max()) <= CONSTANT * float(np.abs(right).max()):
        return cosine(left, right)
    return cosine(left - mean, right - mean)


def without_common(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Scores (..., C) without the mean of their columns, which no softmax sees; of no and yes, their difference."""
    wide = np.asarray(scores, np.float64)
    centred: NDArray[np.float64] = wide - wide.mean(axis=-1, keepdims=True)
    return centred


def check_alike(what: str, got: object, want: object) -> None:
    """Raises FidelityError where two answers cannot be compared number by number."""
    if got != want:
        raise FidelityError(
            f"{what}: expected those of the judge, {want}, got {got}; compare a bundle with its own source"
        )


def judged_on(data: PictureData, pictures: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """The record of the pictures and texts that a bundle was compared on."""
    made_up = "made-up pictures: this shows that the graphs agree, not how real pictures fare"
    return {
        "kind": data.kind,
        "sha256": data.sha256,
        "note": made_up if data.kind == "synthetic" else "",
        "held_out_pictures": list(pictures),
        "held_out_texts": list(texts),
    }


def rows(items: Sequence[Any]) -> list[dict[str, Any]]:
    """Dataclasses as JSON rows."""
    return [asdict(item) for item in items]


def _spread(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values.mean()), float(np.percentile(values, 99)), float(values.max())
