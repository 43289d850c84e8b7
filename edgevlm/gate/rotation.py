"""Rotations as unit quaternions (x, y, z, w): their forms, their products, and means of them and of angles.

Rotations are averaged as Markley et al. 2007, "Averaging Quaternions" (doi 10.2514/1.28949) do: the eigenvector of the
largest eigenvalue of sum w q q^T, which does not see the signs of quaternions. Angles are averaged around one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

RotationForm = Literal["quaternion_xyzw", "rotation_vector", "rpy"]
Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]

_AMBIGUOUS = 1e-3  # of the eigenvalues' sum: closer than this, the mean may as well be another one


def quaternion(form: RotationForm, numbers: Sequence[float]) -> Quaternion:
    """One of the contract's forms -> a unit quaternion. `rpy`: angles about the fixed x, y, z (REP 103)."""
    if form == "quaternion_xyzw":
        x, y, z, w = numbers
        return normalize((x, y, z, w))
    a, b, c = numbers
    if form == "rotation_vector":
        return exponential((a, b, c))
    roll, pitch, yaw = exponential((a, 0.0, 0.0)), exponential((0.0, b, 0.0)), exponential((0.0, 0.0, c))
    return multiply(yaw, multiply(pitch, roll))


def numbers(form: RotationForm, q: Quaternion, near: Quaternion) -> tuple[float, ...]:
    """A unit quaternion in one of the contract's forms, so that `quaternion` of them has the sign nearer to `near`.

    A rotation vector is then up to two half turns long, and a roll up to a whole turn: what follows `near` in small
    steps makes no jump in the quaternions that go over the wire.
    """
    signed = q if dot(q, near) >= 0 else _scaled4(q, -1.0)
    if form == "quaternion_xyzw":
        return signed
    if form == "rotation_vector":
        return _long_logarithm(signed, near)
    roll, pitch, yaw = _rpy(q)
    if dot(quaternion(form, (roll, pitch, yaw)), signed) < 0:
        roll -= math.copysign(math.tau, roll)
    return roll, pitch, yaw


def dot(a: Quaternion, b: Quaternion) -> float:
    """Below 0 when two unit quaternions have signs that do not fit each other."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]


def _scaled4(q: Quaternion, by: float) -> Quaternion:
    return q[0] * by, q[1] * by, q[2] * by, q[3] * by


def _long_logarithm(q: Quaternion, near: Quaternion) -> Vector:
    """The rotation vector, up to a whole turn long, of this very quaternion; the axis of a whole turn is free."""
    x, y, z, w = q
    sine = math.sqrt(x * x + y * y + z * z)
    if w >= 0 or sine > 1e-9:
        scale = 2.0 if sine < 1e-9 else 2 * math.atan2(sine, w) / sine
        return x * scale, y * scale, z * scale
    axis = near[:3] if norm(near[:3]) > 1e-9 else (1.0, 0.0, 0.0)
    return scaled(axis, math.tau / norm(axis))


def _rpy(q: Quaternion) -> Vector:
    x, y, z, w = q
    pitch = math.asin(min(max(2 * (w * y - z * x), -1.0), 1.0))
    roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    return roll, pitch, math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def normalize(q: Quaternion) -> Quaternion:
    """The unit quaternion of the same direction; `q` is not zero."""
    x, y, z, w = q
    length = math.sqrt(x * x + y * y + z * z + w * w)
    return x / length, y / length, z / length, w / length


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """First `b`, then `a`."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def exponential(v: Vector) -> Quaternion:
    """A rotation vector -> a unit quaternion."""
    x, y, z = v
    angle = math.sqrt(x * x + y * y + z * z)
    scale = 0.5 - angle * angle / 48 if angle < 1e-4 else math.sin(angle / 2) / angle
    return normalize((x * scale, y * scale, z * scale, math.cos(angle / 2)))


def logarithm(q: Quaternion) -> Vector:
    """A unit quaternion -> the shortest rotation vector."""
    x, y, z, w = q
    if w < 0:
        x, y, z, w = -x, -y, -z, -w
    sine = math.sqrt(x * x + y * y + z * z)
    scale = 2.0 if sine < 1e-9 else 2 * math.atan2(sine, w) / sine
    return x * scale, y * scale, z * scale


def between(start: Quaternion, end: Quaternion) -> Vector:
    """The shortest rotation vector, about fixed axes, that turns `start` into `end`."""
    x, y, z, w = start
    return logarithm(multiply(end, (-x, -y, -z, w)))


def multiply_unit(turn: Vector, q: Quaternion) -> Quaternion:
    """`q` turned by a rotation vector about fixed axes."""
    return normalize(multiply(exponential(turn), q))


def scaled(v: Vector, by: float) -> Vector:
    """A vector times a number."""
    return v[0] * by, v[1] * by, v[2] * by


def norm(v: Vector) -> float:
    """The length of a vector."""
    return math.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])


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
