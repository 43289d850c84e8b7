"""Rotations agree with rotation matrices, and one step of an orientation keeps its limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import gate_judge
from support.gate_judge import S
from support.rotations import FORMS, Form, matrix, rotation_between, wire_quaternion

from edgevlm.clock import even
from edgevlm.gate.chunking import LatestChunk
from edgevlm.gate.gate import Gate
from edgevlm.gate.limits import GateLimits, OrientationLimits
from edgevlm.gate.motion import Facing, step_orientation
from edgevlm.gate.rotation import between, exponential, multiply, numbers, quaternion
from edgevlm.manifest.contract import ActionGroup, Stamped, StateField

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


@given(VECTOR, VECTOR)
def test_numbers_carry_the_sign_of_the_rotation_before(
    vector: tuple[float, float, float], before: tuple[float, float, float]
) -> None:
    """What a message makes of the numbers is judged, with half angles of its own."""
    q, near = exponential(vector), exponential(before)
    for form in FORMS:
        sent = numbers(form, q, near)
        np.testing.assert_allclose(matrix(form, sent), matrix("quaternion_xyzw", q), atol=1e-9)
        wire = wire_quaternion(form, sent)
        np.testing.assert_allclose(wire, quaternion(form, sent), atol=1e-12)
        assert wire @ np.array(near) >= -1e-12


def test_a_full_turn_is_a_rotation_vector_too() -> None:
    """The other sign of no rotation at all: about whichever axis, or about the one before."""
    for near in ((0.0, 0.0, 0.0, -1.0), (0.0, 0.6, 0.0, -0.8)):
        sent = numbers("rotation_vector", SAME, near)
        assert math.hypot(*sent) == pytest.approx(math.tau)
        assert wire_quaternion("rotation_vector", sent)[3] == pytest.approx(-1.0)


def test_of_two_signs_the_nearer_is_sent() -> None:
    assert numbers("quaternion_xyzw", (0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, -1.0)) == (0.0, 0.0, 0.0, -1.0)


@given(st.lists(st.tuples(st.none() | VECTOR, st.floats(0.005, 0.1), st.floats(0, 0.2)), max_size=40))
def test_an_orientation_keeps_every_limit(steps: list[tuple[Any, float, float]]) -> None:
    at = Facing(SAME, STILL, False)
    rate = np.zeros(3)
    for target, dt, remaining in steps:
        after = step_orientation(LIMITS, at, None if target is None else exponential(target), even(dt), remaining)
        real = rotation_between(matrix("quaternion_xyzw", at.q), matrix("quaternion_xyzw", after.q)) / dt
        assert np.linalg.norm(real) <= 2.0 * (1 + 1e-6)
        assert np.linalg.norm(real - rate) <= 5.0 * dt * (1 + 1e-6) + 1e-9
        at, rate = after, real


@given(VECTOR)
def test_a_far_orientation_is_reached_and_held(target: tuple[float, float, float]) -> None:
    at, goal = Facing(SAME, STILL, False), exponential(target)
    for _ in range(400):
        at = step_orientation(LIMITS, at, goal, even(0.02), 0.0)
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
    gate = Gate(contract, GateLimits(**limits), LatestChunk())
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
    gate = Gate(contract, limits, LatestChunk())
    refusal = gate.feed(gate_judge.chunk(np.zeros((3, 4)), S, 1, LIMITS.actions), S, S)
    assert refusal is not None
    assert refusal.reason == "rotation"
    state = gate.feed_state(Stamped(np.zeros(4, np.float32), S), S)
    assert state is not None
    assert state.reason == "rotation"
    gate.heartbeat(S, S)
    assert gate.command(S, S).cause == "state_not_finite"
