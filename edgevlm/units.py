"""Units: a closed list, how each is converted, and what they are on the wire of ROS (REP 103: SI).

A unit is a base alone, or a base a second ("rad/s") or a second squared ("rad/s^2"). "1" is a number without a unit;
"%" a hundredth of the range that "1" is the whole of. Nothing else is a unit: neither free text nor "?".
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, WithJsonSchema


class _Base(NamedTuple):
    """What a base measures, by the SI unit of it, and how many of those it is."""

    si: str
    size: float
    rates: bool = True


_BASES: Mapping[str, _Base] = {
    "1": _Base("1", 1.0),
    "%": _Base("1", 0.01),
    "rad": _Base("rad", 1.0),
    "deg": _Base("rad", math.pi / 180),
    "m": _Base("m", 1.0),
    "cm": _Base("m", 0.01),
    "mm": _Base("m", 0.001),
    "s": _Base("s", 1.0, rates=False),
    "N": _Base("N", 1.0),
    "Nm": _Base("Nm", 1.0),
    "A": _Base("A", 1.0),
    "V": _Base("V", 1.0, rates=False),
    "Pa": _Base("Pa", 1.0, rates=False),
    "degC": _Base("degC", 1.0, rates=False),  # what sensor_msgs writes a temperature in
}
_RATES = ("", "/s", "/s^2")
_RPM = "rpm"


class _Known(NamedTuple):
    si: str  # base
    order: int  # how often it is divided by a second
    size: float


_KNOWN: Mapping[str, _Known] = {
    **{
        f"{name}{rate}": _Known(base.si, order, base.size)
        for name, base in _BASES.items()
        for order, rate in enumerate(_RATES)
        if base.rates or not order
    },
    _RPM: _Known("rad", 1, math.tau / 60),
}
UNITS = tuple(_KNOWN)

# What people write, in small letters: bundles of formats up to 1.3 could say anything.
_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("none", "dimensionless", "unitless"), "1"),
    **dict.fromkeys(("percent", "pct"), "%"),
    **dict.fromkeys(("radian", "radians", "rads"), "rad"),
    **dict.fromkeys(("degree", "degrees", "degs", "°"), "deg"),
    **dict.fromkeys(("metre", "metres", "meter", "meters"), "m"),
    **dict.fromkeys(("centimetre", "centimetres", "centimeter", "centimeters"), "cm"),
    **dict.fromkeys(("millimetre", "millimetres", "millimeter", "millimeters"), "mm"),
    **dict.fromkeys(("second", "seconds", "sec"), "s"),
    **dict.fromkeys(("newton", "newtons"), "N"),
    **dict.fromkeys(
        ("newton metre", "newton metres", "newton meter", "newton meters", "n*m", "n·m", "n m", "n.m"), "Nm"
    ),
    **dict.fromkeys(("ampere", "amperes", "amp", "amps"), "A"),
    **dict.fromkeys(("volt", "volts"), "V"),
    **dict.fromkeys(("pascal", "pascals"), "Pa"),
    **dict.fromkeys(("celsius", "degrees celsius", "°c"), "degC"),
    **dict.fromkeys(("hz", "hertz"), "1/s"),
    "revolutions per minute": _RPM,
}
_SECOND = r"\s*(?:/|per)\s*(?:s|sec|second)"
_SPELLED_RATES = (
    (re.compile(rf"{_SECOND}\s*(?:\^2|\*\*2|²|2|squared)$"), "/s^2"),
    (re.compile(rf"{_SECOND}{_SECOND}$"), "/s^2"),
    (re.compile(r"\s*[*·. ]?\s*s\^?-2$"), "/s^2"),
    (re.compile(rf"{_SECOND}$"), "/s"),
    (re.compile(r"\s*[*·. ]?\s*s\^?-1$"), "/s"),
)


def parse_unit(text: str) -> str:
    """The unit of the list that `text` spells.

    Raises:
        ValueError: it is none; the message has the nearest.
    """
    if (unit := _spelled(text)) is not None:
        return unit
    near = difflib.get_close_matches(text.strip().lower(), [*(name.lower() for name in UNITS), *_WORDS], 1)
    hint = f"the nearest is {_spelled(near[0]) or _symbol(near[0])!r}" if near else "a number without a unit has '1'"
    raise ValueError(f"unit: expected one of {', '.join(UNITS)}, got {text!r:.40}; {hint}")


Unit = Annotated[str, AfterValidator(parse_unit), WithJsonSchema({"enum": list(UNITS), "type": "string"})]


def _spelled(text: str) -> str | None:
    plain = text.strip()
    if plain in _KNOWN:
        return plain
    base, rate = plain, ""
    for spelling, known in _SPELLED_RATES:
        if (place := spelling.search(plain)) is not None and place.start():
            base, rate = plain[: place.start()], known
            break
    base = base.strip()
    unit = (base if base in _BASES else _WORDS.get(base.lower(), base)) + rate
    return unit if unit in _KNOWN else None


def _symbol(lowered: str) -> str:
    return next(name for name in UNITS if name.lower() == lowered)


def unit_factor(have: str, want: str) -> float:
    """What a number in `have` is multiplied by to be in `want`.

    Raises:
        ValueError: one of them is no unit, or the two do not measure the same thing.
    """
    here, there = _KNOWN[parse_unit(have)], _KNOWN[parse_unit(want)]
    if (here.si, here.order) != (there.si, there.order):
        raise ValueError(f"unit: {have!r} and {want!r} do not measure the same thing, so neither can be the other")
    return 1.0 if have == want else here.size / there.size


def same_kind(one: str, other: str) -> bool:
    """Whether one can be converted to the other."""
    return _KNOWN[one][:2] == _KNOWN[other][:2]


def wire_unit(unit: str) -> str:
    """The SI unit of the same kind: what ROS messages carry where nothing else is said."""
    known = _KNOWN[unit]
    return f"{known.si}{_RATES[known.order]}"


def rate_order(unit: str) -> int:
    """How often the unit is divided by a second: 0, 1 or 2."""
    return _KNOWN[unit].order


def rate_of(unit: str) -> str:
    """The unit of its change in a second. Raises ValueError where the list has none."""
    if unit == _RPM:
        raise ValueError(f"unit: {unit!r} has no rate in the list; use rad/s")
    base, _, _ = unit.partition("/")
    rates = [f"{base}{rate}" for rate in _RATES]
    after = rates.index(unit) + 1
    if after == len(rates) or rates[after] not in _KNOWN:
        raise ValueError(f"unit: {unit!r} has no rate in the list")
    return rates[after]


def axis_unit(unit: str) -> str:
    """The unit of what moves at a rate: "rad" of "rad/s" and of "rad"."""
    return "rad" if unit == _RPM else unit.partition("/")[0]


def is_angle(unit: str) -> bool:
    """Whether it measures an angle, or a rate of one."""
    return _KNOWN[unit].si == "rad"
