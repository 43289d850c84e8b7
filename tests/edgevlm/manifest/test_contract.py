"""The contract: specifications that make sense, and inputs that fit them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support import tiny

from edgevlm.errors import ContractError, NonFiniteError, ShapeError, StampError
from edgevlm.manifest.contract import CameraSpec, Contract, StateField, StateSpec, check_frame, check_stamp, check_state

CAMERA = CameraSpec(name="front", width=16, height=12, encoding="bgra8", rate_hz=(10.0, 30.0))
MONO = CAMERA.model_copy(update={"encoding": "mono8"})
STATE = StateSpec(fields=(StateField(name="x", unit="m"), StateField(name="y", unit="m")))


def changed(**parts: Any) -> Contract:
    """The tiny contract with parts replaced, validated again."""
    return Contract.model_validate({**tiny.mono_contract().model_dump(), **parts})


def plan(**parts: Any) -> dict[str, Any]:
    result = tiny.mono_contract().plan
    assert result is not None
    return {**result.model_dump(), **parts}


def action(**parts: Any) -> dict[str, Any]:
    return {**tiny.mono_contract().action.model_dump(), **parts}


def window(**parts: Any) -> dict[str, Any]:
    return {**tiny.mono_contract().window.model_dump(), **parts}


def camera(**parts: Any) -> dict[str, Any]:
    return {**CAMERA.model_dump(), **parts}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"cameras": ()}, "cameras"),
        ({"cameras": (camera(), camera())}, "camera names repeat"),
        ({"cameras": (camera(rate_hz=(30.0, 10.0)),)}, "rate_hz"),
        ({"cameras": (camera(rate_hz=(0.0, 10.0)),)}, "rate_hz"),
        ({"cameras": (camera(encoding="yuv422"),)}, "encoding"),
        ({"cameras": (camera(width=0),)}, "width"),
        ({"state": {"fields": [{"name": "x", "unit": "m"}, {"name": "x", "unit": "m"}]}}, "state names repeat"),
        ({"state": {"fields": [{"name": "x", "unit": "m", "std": 0.0}]}}, "std"),
        ({"state": {"fields": [{"name": "x", "unit": "m", "mean": float("nan")}]}}, "mean"),
        ({"state": None}, "plan.relative_to names no state field"),
        ({"window": window(offsets_s=(0.0, -0.1))}, "offsets_s"),
        ({"window": window(offsets_s=(-0.1, -0.1, 0.0))}, "offsets_s"),
        ({"window": window(offsets_s=(-0.2, -0.1))}, "offsets_s"),
        ({"window": window(tolerance_s=0.0)}, "tolerance_s"),
        ({"window": window(tolerance_s=1e300)}, "tolerance_s"),
        ({"window": window(reset_after_s=1e308)}, "reset_after_s"),
        ({"window": window(offsets_s=(-1e300, 0.0))}, "offsets_s"),
        ({"window": window(pad="zeros")}, "pad"),
        ({"action": action(execute_steps=6)}, "execute_steps"),
        ({"action": action(step_s=float("inf"))}, "step_s"),
        ({"action": action(step_s=1e-10)}, "step_s"),
        ({"plan": plan(units=("m",))}, "units must have 2"),
        ({"plan": plan(relative_to=("x",))}, "relative_to must have 2"),
        ({"plan": plan(scale=(1.0, 1.0, 1.0))}, "scale must have 2"),
        ({"plan": plan(steps=())}, "steps"),
        ({"plan": plan(waypoint_offsets_s=())}, "waypoint_offsets_s"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_refuses_a_contract_that_makes_no_sense(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        changed(**parts)


@pytest.mark.parametrize("key", ["units", "scale", "offset", "lower", "upper"])
def test_refuses_an_action_group_with_a_column_of_another_length(key: str) -> None:
    groups = [group.model_dump() for group in tiny.mono_contract().action.groups]
    groups[0][key] = groups[0][key][:1]
    with pytest.raises(ValidationError, match=f"{key} must have 2 entries"):
        changed(action=action(groups=groups))


def test_refuses_limits_the_wrong_way_round_and_names_that_repeat() -> None:
    groups = [group.model_dump() for group in tiny.mono_contract().action.groups]
    with pytest.raises(ValidationError, match="below its upper"):
        changed(action=action(groups=[{**groups[0], "lower": (0.0, 0.1), "upper": (0.1, 0.1)}, groups[1]]))
    with pytest.raises(ValidationError, match="action names repeat"):
        changed(action=action(groups=[groups[0], groups[0]]))


def test_an_accepted_contract_survives_json() -> None:
    for contract in (tiny.mono_contract(), tiny.duo_contract(pad="mask")):
        assert Contract.model_validate_json(contract.model_dump_json()) == contract


def test_takes_a_frame_as_it_is_also_with_padded_rows() -> None:
    wide = np.zeros((12, 20, 4), np.uint8)
    frame = wide[:, :16]
    assert check_frame(CAMERA, frame) is frame
    assert check_frame(MONO, wide[:, :16, 0].copy()).shape == (12, 16)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((12, 16, 3), np.uint8),
        np.zeros((16, 12, 4), np.uint8),
        np.zeros((12, 16, 4), np.int8),
        np.zeros((12, 16, 4), np.float32),
        np.zeros((12, 16), np.uint8),
        np.zeros((1, 12, 16, 4), np.uint8),
        np.zeros((12, 32, 4), np.uint8)[:, ::2],
        np.zeros((12, 16, 4), np.uint8)[::-1],
        np.zeros((12, 16, 4), np.uint8)[:, ::-1],
        np.zeros((12, 16, 4), np.uint8)[..., ::-1],
        np.zeros((16, 12, 4), np.uint8).transpose(1, 0, 2),
        b"\0" * 12 * 16 * 4,
        None,
    ],
)
def test_refuses_a_frame_of_another_shape_dtype_or_layout(image: Any) -> None:
    with pytest.raises(ShapeError, match=r"camera 'front': expected uint8 \(12, 16, 4\) in bgra8.*got"):
        check_frame(CAMERA, image)


def test_refuses_a_grey_frame_with_a_channel_axis() -> None:
    with pytest.raises(ShapeError, match=r"expected uint8 \(12, 16\) in mono8, got uint8 \(12, 16, 1\)"):
        check_frame(MONO, np.zeros((12, 16, 1), np.uint8))


def test_takes_any_numbers_as_state_and_copies_them() -> None:
    values = np.array([1.0, 2.0], np.float32)
    state = check_state(STATE, values)
    values[0] = 9.0
    assert state.tolist() == [1.0, 2.0]
    assert check_state(STATE, [1, 2]).dtype == np.float32
    assert check_state(STATE, (np.float64(1), 2)).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "value",
    [
        [1.0],
        [1.0, 2.0, 3.0],
        [[1.0, 2.0]],
        1.0,
        None,
        "12",
        ["1", "2"],
        [True, False],
        [1j, 2j],
        [[1.0], [2.0, 3.0]],
        {},
    ],
)
def test_refuses_a_state_that_is_not_its_numbers(value: Any) -> None:
    with pytest.raises(ShapeError, match=r"state: expected.*\['x', 'y'\], got"):
        check_state(STATE, value)


@given(st.lists(st.floats(width=64), min_size=2, max_size=2))
def test_only_finite_states_pass_and_the_bad_field_is_named(numbers: list[float]) -> None:
    limit = float(np.finfo(np.float32).max)
    bad = [name for name, number in zip("xy", numbers, strict=True) if not abs(number) <= limit]
    try:
        state = check_state(STATE, np.array(numbers))
    except NonFiniteError as error:
        assert all(f"'{name}'" in str(error) for name in bad)
        # float32 rounds to nearest: the largest values go either way, by less than half a step
        assert bad or max(map(abs, numbers)) > limit * 0.999
    else:
        assert np.isfinite(state).all()
        assert all(abs(number) < limit * 1.001 for number in numbers)


def test_select_picks_named_values_in_the_contracts_order() -> None:
    assert STATE.select(["z", "y", "x"], [3.0, 2.0, 1.0]).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("names", "values", "kind"),
    [
        (["x", "z"], [1.0, 2.0], ContractError),
        (["x", "y", "x"], [1.0, 2.0, 3.0], ContractError),
        (["x", "y"], [1.0], ShapeError),
        (["x", "y", "z"], [1.0, 2.0], ShapeError),
    ],
)
def test_select_refuses_missing_double_and_unpaired_names(names: list[str], values: list[float], kind: type) -> None:
    with pytest.raises(kind, match="state: expected"):
        STATE.select(names, values)


def test_takes_an_integer_of_nanoseconds_as_a_stamp() -> None:
    assert check_stamp("state", np.int64(5)) == 5
    assert type(check_stamp("state", np.uint64(5))) is int


@pytest.mark.parametrize("stamp", [1.5, 1e18, np.float64(3.0), True, None, "5", float("nan")])
def test_refuses_a_stamp_that_is_no_integer(stamp: Any) -> None:
    with pytest.raises(StampError, match=r"camera 'front': expected a stamp in whole nanoseconds, got"):
        check_stamp("camera 'front'", stamp)
