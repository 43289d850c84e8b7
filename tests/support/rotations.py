"""Rotations as matrices and quaternions, written down a second time: nothing here comes from edgevlm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Form = Literal["quaternion_xyzw", "rotation_vector", "rpy"]
FORMS: tuple[Form, ...] = ("quaternion_xyzw", "rotation_vector", "rpy")


def turn(axis: int, angle: float) -> NDArray[np.float64]:
    """The matrix of a rotation about x, y or z."""
    matrix = np.eye(3)
    a, b = [i for i in range(3) if i != axis]
    sign = -1.0 if axis == 1 else 1.0
    matrix[[a, a, b, b], [a, b, a, b]] = (
        math.cos(angle),
        -sign * math.sin(angle),
        sign * math.sin(angle),
        math.cos(angle),
    )
    return matrix


def matrix(form: Form, components: Sequence[float]) -> NDArray[np.float64]:
    """Without quaternion arithmetic: by its columns, by Rodrigues' formula, by three matrices."""
    if form == "rpy":
        roll, pitch, yaw = components
        product: NDArray[np.float64] = turn(2, yaw) @ turn(1, pitch) @ turn(0, roll)
        return product
    if form == "rotation_vector":
        vector = np.array(components)
        angle = float(np.linalg.norm(vector))
        if angle < 1e-12:
            return np.eye(3)
        x, y, z = vector / angle
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        result: NDArray[np.float64] = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
        return result
    x, y, z, w = np.array(components) / np.linalg.norm(components)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_between(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation vector of a turn, from matrices; exact up to a quarter turn and a bit."""
    change = end @ start.T
    axis = np.array([change[2, 1] - change[1, 2], change[0, 2] - change[2, 0], change[1, 0] - change[0, 1]]) / 2
    sine = float(np.linalg.norm(axis))
    angle = math.atan2(sine, (np.trace(change) - 1) / 2)
    return axis if sine < 1e-12 else axis * (angle / sine)


def angle_between(start: NDArray[np.float64], end: NDArray[np.float64]) -> float:
    """How far two rotations are apart, by the length of a chord: exact at half a turn, too."""
    return 2 * math.asin(min(1.0, float(np.linalg.norm(start - end)) / math.sqrt(8)))


def wire_quaternion(form: Form, numbers: Sequence[float]) -> NDArray[np.float64]:
    """The quaternion x, y, z, w that a message of these numbers carries, with its sign: by half angles."""
    if form == "quaternion_xyzw":
        return np.array(numbers) / np.linalg.norm(numbers)
    if form == "rotation_vector":
        angle = float(np.linalg.norm(numbers))
        return np.array([*(np.array(numbers) * np.sinc(angle / 2 / math.pi) / 2), math.cos(angle / 2)])
    (cr, cp, cy), (sr, sp, sy) = ([f(angle / 2) for angle in numbers] for f in (math.cos, math.sin))
    return np.array(
        [
            sr * cp * cy - cr * sp * sy,
            cr * sp * cy + sr * cp * sy,
            cr * cp * sy - sr * sp * cy,
            cr * cp * cy + sr * sp * sy,
        ]
    )


def vector_of(m: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation vector of a matrix, by its angle and its axis: exact near half a turn, too."""
    angle = angle_between(np.eye(3), m)
    axis = np.linalg.eigh((m + m.T) / 2)[1][:, -1]
    skew = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    return axis * angle * (-1.0 if skew @ axis < 0 else 1.0)


def quaternion_of(m: NDArray[np.float64]) -> NDArray[np.float64]:
    """The quaternion x, y, z, w of a matrix, w >= 0."""
    return wire_quaternion("rotation_vector", vector_of(m).tolist())
