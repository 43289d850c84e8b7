"""Model output to physical units; nothing that is not finite comes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import tiny

from edgevlm.errors import ActionRangeError, NonFiniteError, ShapeError
from edgevlm.manifest.contract import PlanSpec
from edgevlm.tasks.action_decoder import ActionDecoder, PlanDecoder

CONTRACT = tiny.mono_contract()
assert CONTRACT.plan is not None
PLAN: PlanSpec = CONTRACT.plan
STATE = np.float32([0.5, -0.25, 1.0])
WAYPOINTS, LOGITS = np.zeros((1, 2, 2), np.float32), np.zeros((1, 3), np.float32)
numbers = st.floats(width=32)


def test_scales_each_column_by_its_own_group() -> None:
    chunk = np.ones((1, 5, 3), np.float32)
    values = ActionDecoder(CONTRACT.action)(chunk)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, np.tile(np.float32([0.05, 0.06, 1.0]), (5, 1)), rtol=1e-6)


def test_the_chunk_belongs_to_the_caller() -> None:
    chunk = np.ones((1, 5, 3), np.float32)
    values = ActionDecoder(CONTRACT.action)(chunk)
    values[:] = 7.0
    assert (chunk == 1.0).all()


@given(st.lists(numbers, min_size=15, max_size=15))
def test_a_chunk_is_finite_or_refused(flat: list[float]) -> None:
    chunk = np.array(flat, np.float32).reshape(1, 5, 3)
    try:
        values = ActionDecoder(CONTRACT.action)(chunk)
    except NonFiniteError:
        assert not np.isfinite(chunk).all()  # scales of at most 1 don't overflow
    except ActionRangeError:
        assert np.isfinite(chunk).all()
    else:
        assert np.isfinite(values).all()
        assert np.isfinite(chunk).all()
        spec = CONTRACT.action
        lower, upper = spec.column("lower"), spec.column("upper")
        assert (np.abs(values - (lower + upper) / 2) <= 10.5 * (upper - lower) + 1e-6).all()


@pytest.mark.parametrize(
    ("value", "refused"), [(0.06, ""), (1.25, ""), (-1.25, ""), (1.27, "1.27"), (-3.7e30, "-3.7e")]
)
def test_refuses_an_action_over_ten_times_as_far_outside_its_bounds_as_these_are_apart(
    value: float, refused: str
) -> None:
    chunk = np.zeros((1, 5, 3), np.float32)
    chunk[0, 2, 0] = value / 0.05  # dx, whose bounds are -0.06 and 0.06
    if not refused:
        assert ActionDecoder(CONTRACT.action)(chunk)[2, 0] == pytest.approx(value)
        return
    with pytest.raises(ActionRangeError, match=rf"'dx', row 2: expected -0\.06 to 0\.06 m .* got {refused}"):
        ActionDecoder(CONTRACT.action)(chunk)


def test_refuses_a_finite_output_that_overflows_when_it_is_scaled() -> None:
    groups = tuple(group.model_copy(update={"scale": (100.0,) * len(group.names)}) for group in CONTRACT.action.groups)
    decode = ActionDecoder(CONTRACT.action.model_copy(update={"groups": groups}))
    with pytest.raises(NonFiniteError, match=r"'chunk'.*no action was put out"):
        decode(np.full((1, 5, 3), 3e38, np.float32))


@pytest.mark.parametrize("shape", [(5, 3), (1, 5, 4), (1, 4, 3), (2, 5, 3), (1, 15)])
def test_refuses_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"'chunk': expected \(1, 5, 3\), got"):
        ActionDecoder(CONTRACT.action)(np.zeros(shape, np.float32))
    with pytest.raises(ShapeError, match="'waypoints'"):
        PlanDecoder(PLAN, CONTRACT.state)(np.zeros(shape, np.float32), LOGITS, STATE, 0)
    with pytest.raises(ShapeError, match="'step_logits'"):
        PlanDecoder(PLAN, CONTRACT.state)(WAYPOINTS, np.zeros(shape, np.float32), STATE, 0)


def test_waypoints_start_from_the_state_fields_they_are_relative_to() -> None:
    waypoints = np.float32([[[1.0, 0.0], [0.0, 1.0]]])
    plan = PlanDecoder(PLAN, CONTRACT.state)(waypoints, LOGITS, STATE, 1000)
    np.testing.assert_allclose(plan.waypoints, [[0.8, -0.25], [0.5, 0.05]], rtol=1e-6)
    assert plan.stamps_ns == (1000 + 200 * tiny.MS, 1000 + 400 * tiny.MS)
    assert (plan.names, plan.units) == (("x", "y"), ("m", "m"))


def test_absolute_waypoints_need_no_state() -> None:
    absolute = PLAN.model_copy(update={"relative_to": (), "offset": (1.0, 2.0)})
    plan = PlanDecoder(absolute, None)(WAYPOINTS, LOGITS, None, 0)
    assert plan.waypoints.tolist() == [[1.0, 2.0], [1.0, 2.0]]


@given(st.lists(numbers, min_size=3, max_size=3))
def test_confidences_are_probabilities_or_the_plan_is_refused(flat: list[float]) -> None:
    logits = np.array([flat], np.float32)
    try:
        plan = PlanDecoder(PLAN, CONTRACT.state)(WAYPOINTS, logits, STATE, 0)
    except NonFiniteError:
        assert not np.isfinite(logits).all()
        return
    assert plan.confidence.sum() == pytest.approx(1.0)
    assert (plan.confidence >= 0).all()
    assert plan.step == PLAN.steps[int(np.argmax(logits))]


@pytest.mark.parametrize(("waypoints", "logits"), [(np.nan, 0.0), (np.inf, 0.0), (0.0, np.nan), (0.0, -np.inf)])
def test_refuses_a_plan_that_is_not_finite(waypoints: float, logits: float) -> None:
    decode: Any = PlanDecoder(PLAN, CONTRACT.state)

    def broken(shape: tuple[int, ...], number: float) -> NDArray[np.float32]:
        array = np.zeros(shape, np.float32)
        array.flat[1] = number
        return array

    with pytest.raises(NonFiniteError, match="waypoints" if waypoints else "step_logits"):
        decode(broken((1, 2, 2), waypoints), broken((1, 3), logits), STATE, 0)


def test_works_where_the_program_turned_float_faults_into_errors() -> None:
    with np.errstate(all="raise"):
        plan = PlanDecoder(PLAN, CONTRACT.state)(WAYPOINTS, np.float32([[3e38, -3e38, 0.0]]), STATE, 0)
        assert plan.confidence.tolist() == [1.0, 0.0, 0.0]
