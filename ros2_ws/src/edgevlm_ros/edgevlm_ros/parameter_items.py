"""What a parameter may be: its type, range and description, and whether a value fits. No ROS in here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from edgevlm.errors import ContractError

Value = bool | int | float | str | list[float] | list[str]


@dataclass(frozen=True)
class Item:
    """One parameter.

    Attributes:
        low, high: the range of a number, both included.
        always: may be set while the node is active; all others are frozen then.
    """

    name: str
    default: Value
    description: str
    low: float | None = None
    high: float | None = None
    always: bool = False


AUTOSTART = (
    Item("autostart", False, "configure and activate without being asked, and try again while that is refused"),
    Item("autostart_period_s", 0.5, "how long to wait between two tries", 0.05, 60.0),
    Item("diagnostics_period_s", 1.0, "how often diagnostics are published", 0.1, 60.0),
)


def one_line(error: Exception) -> str:
    """One line for a person: pydantic's first fault with its place, or the message."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']} (got {first['input']!r:.80})"
    return " ".join(str(error).split())


def fit(item: Item, value: Any) -> Any:
    """The value in the type of the default.

    Raises:
        ContractError: another type, or out of range.
    """
    fitted = _converted(item.default, value)
    if fitted is None:
        raise ContractError(
            f"parameter {item.name}: expected {_kind(item.default)} ({item.description}), got {value!r}"
        )
    numbers = fitted if isinstance(fitted, list) else [fitted]
    for number in numbers:
        if isinstance(number, bool | str):
            continue
        low = -math.inf if item.low is None else item.low
        high = math.inf if item.high is None else item.high
        if not low <= number <= high:
            raise ContractError(
                f"parameter {item.name}: expected {low:g} to {high:g} ({item.description}), got {value!r}"
            )
    return fitted


def _converted(default: Value, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool):
        return value if isinstance(value, bool) else None
    if isinstance(default, int):
        return value if number and isinstance(value, int) else None
    if isinstance(default, float):
        return float(value) if number else None
    if isinstance(default, str):
        return value if isinstance(value, str) else None
    if value is None:  # how rcl hands on an empty list
        return []
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        return None
    items = list(value)
    if (default and isinstance(default[0], str)) or all(isinstance(item, str) for item in items):
        return items if all(isinstance(item, str) for item in items) else None
    numbers = all(isinstance(item, int | float) and not isinstance(item, bool) for item in items)
    return [float(item) for item in items] if numbers else None


def _kind(default: Value) -> str:
    if isinstance(default, list):
        return "a list of texts" if default and isinstance(default[0], str) else "a list"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[type(default)]
