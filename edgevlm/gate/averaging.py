"""Means of what lies on a circle or is a rotation, where the mean of the numbers is something else.

Rotations are averaged as Markley et al. 2007, "Averaging Quaternions" (doi 10.2514/1.28949) do: the eigenvector of the
largest eigenvalue of sum w q q^T, which does not see the signs of quaternions. Angles are averaged around one of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

RotationForm = Literal["quaternion_xyzw", "rotation_vector", "rpy"]

_AMBIGUOUS = 1e-3  # of the eigenvalues' sum: closer than this, the mean may as well be another one


@dataclass(frozen=True)
class Geometry:
    """Which columns of a chunk are no plain numbers: (form, columns) of rotations, (column, period) of angles."""

    rotations: tuple[tuple[RotationForm, tuple[int, ...]], ...] = ()
    periods: tuple[tuple[int, float], ...] = ()


def mean_rotation(quaternions: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float64]:
    """The mean of unit quaternions (N, 4), the newest last: a unit quaternion with the newest one's sign.

    Rotations that cancel each other out, such as two that are half a turn apart, have no mean: the newest one stands.
    """
    newest: NDArray[np.float64] = quaternions[-1].astype(np.float64)
    moments = (quaternions * (weights / weights.sum())[:, None]).T @ quaternions  # (4, 4), trace 1
    values, vectors = np.linalg.eigh(moments)
    if values[-1] - values[-2] < _AMBIGUOUS:
        return newest
    mean: NDArray[np.float64] = vectors[:, -1]
    return -mean if mean @ newest < 0 else mean


def nearest_turn(angle: float, near: float, period: float) -> float:
    """The same angle, by whole periods nearest to `near`; the number itself where that is near enough."""
    if abs(angle - near) <= period / 2:
        return angle
    return near + math.remainder(angle - near, period)


def mean_angle(angles: NDArray[Any], weights: NDArray[Any], period: float) -> float:
    """The mean of angles (N,), each taken on the side that is nearest to the last one."""
    newest = float(angles[-1])
    around = np.array([nearest_turn(float(angle), newest, period) for angle in angles])
    return float(np.clip(weights / weights.sum() @ around, around.min(), around.max()))
