"""Means of rotations agree with the mean of rotation matrices; means of angles do not see whole turns."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.rotations import angle_between, matrix, quaternion_of

from edgevlm.gate.rotation import mean_angle, mean_rotation, nearest_turn

PART = st.floats(-1.0, 1.0)
VECTOR = st.tuples(PART, PART, PART)
WEIGHT = st.floats(0.1, 1.0)


def chordal_mean(rotations: list[NDArray[np.float64]], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation matrix nearest to the weighted sum of matrices (Moakher 2002), by its singular values."""
    u, _, vt = np.linalg.svd(np.tensordot(weights, np.array(rotations), 1))
    fixed: NDArray[np.float64] = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return fixed


@given(st.lists(st.tuples(VECTOR, WEIGHT, st.booleans()), min_size=2, max_size=6), VECTOR)
def test_the_mean_is_that_of_the_matrices_whatever_the_signs(
    parts: list[tuple[tuple[float, float, float], float, bool]], around: tuple[float, float, float]
) -> None:
    base = matrix("rotation_vector", [3 * part for part in around])
    matrices = [matrix("rotation_vector", vector) @ base for vector, _, _ in parts]
    weights = np.array([weight for _, weight, _ in parts])
    assume(all(angle_between(a, b) < 2.0 for a in matrices for b in matrices))
    signs = np.array([-1.0 if flip else 1.0 for _, _, flip in parts])
    quaternions = np.array([quaternion_of(m) for m in matrices]) * signs[:, None]
    average = mean_rotation(quaternions, weights)
    assert np.linalg.norm(average) == pytest.approx(1.0, abs=1e-12)
    assert average @ quaternions[-1] > 0
    assert angle_between(matrix("quaternion_xyzw", average.tolist()), chordal_mean(matrices, weights)) < 1e-5


def test_q_and_minus_q_are_one_rotation() -> None:
    q = np.array([0.0, 0.0, math.sin(0.3), math.cos(0.3)])
    np.testing.assert_allclose(mean_rotation(np.array([q, -q, q, -q]), np.ones(4)), -q, atol=1e-12)


def test_of_two_that_are_half_a_turn_apart_the_newest_stands() -> None:
    old, new = np.array([0.0, 0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0, 0.0])
    assert mean_rotation(np.array([old, new]), np.ones(2)).tolist() == new.tolist()


@pytest.mark.parametrize(("angles", "mean"), [([3.1, -3.1], -math.pi), ([-3.1, 3.1], math.pi), ([0.1, 0.3], 0.2)])
def test_angles_are_averaged_the_shorter_way(angles: list[float], mean: float) -> None:
    assert mean_angle(np.array(angles), np.ones(2), math.tau) == pytest.approx(mean)


@given(st.floats(-20, 20), st.floats(-20, 20), st.sampled_from([math.tau, 360.0]))
def test_the_nearest_turn_is_the_same_angle_within_half_a_turn(angle: float, near: float, period: float) -> None:
    nearest = nearest_turn(angle, near, period)
    assert abs(nearest - near) <= period / 2 * (1 + 1e-12)
    turns = (nearest - angle) / period
    assert turns == pytest.approx(round(turns), abs=1e-9)
    if abs(angle - near) <= period / 2:
        assert nearest == angle
