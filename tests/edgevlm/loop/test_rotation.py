"""Rotations agree with rotation matrices, and one step of an orientation keeps its limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import gate_judge
from support.gate_judge import S

from edgevlm.contract import ActionGroup, Stamped, StateField
from edgevlm.loop.executor import Newest
from edgevlm.loop.gate import Gate
from edgevlm.loop.limits import GateLimits, OrientationLimits
from edgevlm.loop.rotation import Facing, between, exponential, multiply, numbers, quaternion, step_orientation

Form = Literal["quaternion_xyzw", "rotation_vector", "rpy"]
FORMS: tuple[Form, ...] = ("quaternion_xyzw", "rotation_vector", "rpy")
PART = st.floats(-3.0, 3.0)
VECTOR = st.tuples(PART, PART, PART)
LIMITS = OrientationLimits(
    actions=("qx", "qy", "qz", "qw"),
    state=("mx", "my", "mz", "mw"),
    velocity=2.0,
    acceleration=5.0,
    tracking=0.5,
)
STILL = (0.0, 0.0, 0.0)
SAME = (0.0, 0.0, 0.0, 1.0)


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


def matrix(form: Form, given_numbers: Sequence[float]) -> NDArray[np.float64]:
    """Without quaternion arithmetic: by its columns, by Rodrigues' formula, by three matrices."""
    if form == "rpy":
        roll, pitch, yaw = given_numbers
        product: NDArray[np.float64] = turn(2, yaw) @ turn(1, pitch) @ turn(0, roll)
        return product
    if form == "rotation_vector":
        vector = np.array(given_numbers)
        angle = float(np.linalg.norm(vector))
        if angle < 1e-12:
            return np.eye(3)
        x, y, z = vector / angle
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        result: NDArray[np.float64] = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
        return result
    x, y, z, w = np.array(given_numbers) / np.linalg.norm(given_numbers)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_between(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation vector of a small turn, from matrices."""
    change = end @ start.T
    axis = np.array([change[2, 1] - change[1, 2], change[0, 2] - change[2, 0], change[1, 0] - change[0, 1]]) / 2
    sine = float(np.linalg.norm(axis))
    angle = math.atan2(sine, (np.trace(change) - 1) / 2)
    return axis if sine < 1e-12 else axis * (angle / sine)


@given(VECTOR)
def test_every_form_is_the_rotation_that_its_matrix_says(vector: tuple[float, float, float]) -> None:
    for form in ("rotation_vector", "rpy"):
        q = quaternion(form, vector)
        np.testing.assert_allclose(matrix("quaternion_xyzw", q), matrix(form, vector), atol=1e-12)


@given(VECTOR)
def test_numbers_undo_quaternion_in_every_form(vector: tuple[float, float, float]) -> None:
    q = exponential(vector)
    for form in FORMS:
        back = quaternion(form, numbers(form, q, SAME))
        assert abs(sum(a * b for a, b in zip(q, back, strict=True))) == pytest.approx(1.0, abs=1e-9)


@given(VECTOR, VECTOR)
def test_products_are_products_of_matrices(one: tuple[float, float, float], other: tuple[float, float, float]) -> None:
    product = multiply(exponential(one), exponential(other))
    expected = matrix("rotation_vector", one) @ matrix("rotation_vector", other)
    np.testing.assert_allclose(matrix("quaternion_xyzw", product), expected, atol=1e-12)


def test_of_two_signs_the_nearer_is_sent() -> None:
    assert numbers("quaternion_xyzw", (0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, -1.0)) == (0.0, 0.0, 0.0, -1.0)


@given(st.lists(st.tuples(st.none() | VECTOR, st.floats(0.005, 0.1), st.floats(0, 0.2)), max_size=40))
def test_an_orientation_keeps_every_limit(steps: list[tuple[Any, float, float]]) -> None:
    at = Facing(SAME, STILL, False)
    rate = np.zeros(3)
    for target, dt, remaining in steps:
        after = step_orientation(LIMITS, at, None if target is None else exponential(target), dt, remaining)
        real = rotation_between(matrix("quaternion_xyzw", at.q), matrix("quaternion_xyzw", after.q)) / dt
        assert np.linalg.norm(real) <= 2.0 * (1 + 1e-6)
        assert np.linalg.norm(real - rate) <= 5.0 * dt * (1 + 1e-6) + 1e-9
        at, rate = after, real


@given(VECTOR)
def test_a_far_orientation_is_reached_and_kept(target: tuple[float, float, float]) -> None:
    at, goal = Facing(SAME, STILL, False), exponential(target)
    for _ in range(400):
        at = step_orientation(LIMITS, at, goal, 0.02, 0.0)
    assert at.q == goal
    assert math.hypot(*between(at.q, goal)) < 1e-6
    assert math.hypot(*at.rate) < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_the_gate_keeps_an_orientation_within_its_limits_in_every_form(form: Form) -> None:
    count = 4 if form == "quaternion_xyzw" else 3
    names = tuple("abcd"[:count])
    group = ActionGroup(
        kind="ee_pose",
        names=names,
        units=("1",) * count,
        scale=(1.0,) * count,
        offset=(0.0,) * count,
        lower=(-4.0,) * count,
        upper=(4.0,) * count,
        rotation=form,
    )
    contract = gate_judge.contract((group,), tuple(StateField(name=f"m{name}", unit="1") for name in names))
    orientation = {**LIMITS.model_dump(), "actions": names, "state": tuple(f"m{name}" for name in names)}
    limits = {**gate_judge.limits(), "axes": (), "orientations": (orientation,), "command_period_s": 0.02}
    gate = Gate(contract, GateLimits(**limits), Newest())
    random = np.random.default_rng(5)
    measured = np.array(numbers(form, exponential((0.3, -0.2, 0.1)), SAME), np.float32)
    ros_ns, before, rate, followed = 50 * S, matrix(form, measured.tolist()), np.zeros(3), 0
    for k in range(3000):
        if k % 10 == 0:
            rows = np.array([numbers(form, exponential(tuple(random.normal(0, 1, 3))), SAME) for _ in range(8)])
            gate.feed(gate_judge.chunk(rows, ros_ns, k, names), ros_ns, ros_ns)
        gate.heartbeat(ros_ns, ros_ns)
        gate.feed_state(Stamped(measured, ros_ns), ros_ns)
        command = gate.command(ros_ns, ros_ns)
        assert command.values is not None, command
        after = matrix(form, command.values)
        real = rotation_between(before, after) / 0.02
        assert np.linalg.norm(real) <= 2.0 * (1 + 1e-6)
        assert np.linalg.norm(real - rate) <= 5.0 * 0.02 * (1 + 1e-6) + 1e-9
        if form == "quaternion_xyzw":
            assert np.linalg.norm(command.values) == pytest.approx(1.0, abs=1e-12)
        followed += command.mode == "follow"
        measured, before, rate = np.array(command.values, np.float32), after, real
        ros_ns += S // 50
    assert followed > 2900


def test_refuses_quaternions_that_are_none() -> None:
    contract = gate_judge.contract(
        (
            ActionGroup(
                kind="ee_pose",
                names=("qx", "qy", "qz", "qw"),
                units=("1",) * 4,
                scale=(1.0,) * 4,
                offset=(0.0,) * 4,
                lower=(-2.0,) * 4,
                upper=(2.0,) * 4,
                rotation="quaternion_xyzw",
            ),
        ),
        tuple(StateField(name=name, unit="1") for name in LIMITS.state),
    )
    limits = GateLimits(**{**gate_judge.limits(), "axes": (), "orientations": (LIMITS.model_dump(),)})
    gate = Gate(contract, limits, Newest())
    refusal = gate.feed(gate_judge.chunk(np.zeros((3, 4)), S, 1, LIMITS.actions), S, S)
    assert refusal is not None
    assert refusal.reason == "rotation"
    state = gate.feed_state(Stamped(np.zeros(4, np.float32), S), S)
    assert state is not None
    assert state.reason == "rotation"
    gate.heartbeat(S, S)
    assert gate.command(S, S).cause == "state_not_finite"
