"""Units are a closed list: conversion is right by a table of its own, and all else is refused with the nearest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgevlm.manifest.contract import ActionGroup, PlanSpec, StateField
from edgevlm.units import UNITS, axis_unit, is_angle, parse_unit, rate_of, rate_order, same_kind, unit_factor, wire_unit

# What a number of each is in SI, written by hand: (what is measured, how many SI units).
TABLE = {
    "1": ("number", 1), "%": ("number", 1 / 100),
    "rad": ("angle", 1), "deg": ("angle", math.pi / 180),
    "m": ("length", 1), "cm": ("length", 1 / 100), "mm": ("length", 1 / 1000),
    "N": ("force", 1), "Nm": ("torque", 1), "A": ("current", 1),
}  # fmt: skip
ALONE = {"s": "time", "V": "voltage", "Pa": "pressure", "degC": "temperature"}
RATES = ("", "/s", "/s^2")
EXPECTED: dict[str, tuple[str, float, int]] = {
    **{f"{name}{rate}": (*TABLE[name], order) for name in TABLE for order, rate in enumerate(RATES)},
    **{name: (kind, 1, 0) for name, kind in ALONE.items()},
    "rpm": ("angle", 2 * math.pi / 60, 1),
}


def test_the_list_is_the_table() -> None:
    assert set(UNITS) == set(EXPECTED)


@pytest.mark.parametrize("have", EXPECTED)
def test_a_conversion_is_right_or_refused(have: str) -> None:
    for want in EXPECTED:
        (kind, size, order), (other, other_size, other_order) = EXPECTED[have], EXPECTED[want]
        assert same_kind(have, want) == ((kind, order) == (other, other_order))
        if same_kind(have, want):
            assert unit_factor(have, want) == pytest.approx(size / other_size, rel=1e-12)
            assert unit_factor(have, want) * unit_factor(want, have) == pytest.approx(1, rel=1e-15)
        else:
            with pytest.raises(ValueError, match="do not measure the same"):
                unit_factor(have, want)


@pytest.mark.parametrize("unit", EXPECTED)
def test_rates_and_the_wire(unit: str) -> None:
    kind, size, order = EXPECTED[unit]
    assert rate_order(unit) == order and is_angle(unit) == (kind == "angle")
    assert EXPECTED[wire_unit(unit)] == (kind, 1, order)
    assert EXPECTED[axis_unit(unit)][0] == kind and rate_order(axis_unit(unit)) == 0
    if unit in ALONE or order == 2 or unit == "rpm":
        with pytest.raises(ValueError, match="no rate in the list"):
            rate_of(unit)
    else:
        assert EXPECTED[rate_of(unit)] == (kind, size, order + 1)


@pytest.mark.parametrize(
    ("old", "unit"),
    [
        ("radians", "rad"), ("Radian", "rad"), ("degrees", "deg"), ("°", "deg"), ("metres", "m"), ("Meters", "m"),
        ("millimeter", "mm"), ("rad/sec", "rad/s"), ("radians per second", "rad/s"), ("degrees/second", "deg/s"),
        ("m/s2", "m/s^2"), ("m/s²", "m/s^2"), ("m/s**2", "m/s^2"), ("m/s/s", "m/s^2"), ("rad s^-1", "rad/s"),
        ("N*m", "Nm"), ("N m", "Nm"), ("newton metres", "Nm"), ("amps", "A"), ("percent", "%"), ("none", "1"),
        ("dimensionless", "1"), (" rad ", "rad"), ("Hz", "1/s"), ("mm/sec^2", "mm/s^2"),
    ],
)  # fmt: skip
def test_spellings_of_old_bundles_are_mapped(old: str, unit: str) -> None:
    assert parse_unit(old) == unit
    assert StateField(name="a", unit=old).unit == unit


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("nm", "'Nm'"), ("RAD", "'rad'"), ("Deg", "'deg'"), ("metrs", "'m'"), ("newtonn", "'N'"), ("rad/s^3", "'rad/s"),
        ("?", "has '1'"), ("", "has '1'"), ("fill_in", ""), ("furlong", ""), ("m/min", ""), ("/s", ""), ("s/s", ""),
        ("\x1b[2J", ""), ("gripper units", ""),
    ],
)  # fmt: skip
def test_free_text_is_refused_with_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(ValueError, match="expected one of 1, ") as caught:
        parse_unit(text)
    assert nearest in str(caught.value) and "\x1b" not in str(caught.value)
    with pytest.raises(ValidationError):
        StateField(name="a", unit=text)
    with pytest.raises(ValidationError):
        PlanSpec(steps=("a",), waypoint_offsets_s=(0.1,), names=("x",), units=(text,), scale=(1.0,), offset=(0.0,))


@given(st.text(max_size=12))
def test_whatever_the_text_it_is_a_unit_of_the_list_or_refused(text: str) -> None:
    try:
        assert parse_unit(text) in UNITS
    except ValueError as error:
        assert "expected one of" in str(error)


@pytest.mark.parametrize(("form", "unit"), [("quaternion_xyzw", "1"), ("rotation_vector", "rad"), ("rpy", "rad")])
def test_metres_along_a_full_pose_are_of_its_positions(form: Any, unit: str) -> None:
    count = 4 if form == "quaternion_xyzw" else 3
    names = tuple("abcdefg"[: 3 + count])
    plain = {"scale": 1.0, "offset": 0.0, "lower": -1.0, "upper": 1.0}
    numbers = {key: (value,) * len(names) for key, value in plain.items()}
    group = ActionGroup(kind="ee_pose", names=names, units=("m",) * len(names), rotation=form, **numbers)
    assert group.units == ("m",) * 3 + (unit,) * count
    assert ActionGroup.model_validate(group.model_dump()) == group


def test_the_docs_have_the_full_list() -> None:
    text = (Path(__file__).parents[2] / "docs/bundle.md").read_text()
    section = text[text.index("## Units") :].split("\n## ")[0]
    assert all(f"`{unit}`" in section for unit in [*TABLE, *ALONE, "rpm", "/s", "/s^2"])
