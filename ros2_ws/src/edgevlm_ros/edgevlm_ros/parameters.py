"""Declared parameters: a default, a description and a range each; bad values are refused when they are set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from edgevlm.errors import ContractError, EdgevlmError

Value = bool | int | float | str | list[float] | list[str]
Check = Callable[[Mapping[str, Any]], object]


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


class Parameters:
    """The parameters of a node.

    Args:
        check: is given all values as they would be; what it raises (ValueError, pydantic, EdgevlmError) is the refusal.
        frozen: whether parameters may not be changed now.

    Raises:
        ContractError: a value from the command line or a file is refused; the message names it.
    """

    def __init__(
        self, node: Node, items: Iterable[Item], check: Check = dict, frozen: Callable[[], bool] = lambda: False
    ) -> None:
        self._node, self._check, self._frozen = node, check, frozen
        self._items: dict[str, Item] = {}
        self.declare(items)
        node.add_on_set_parameters_callback(self._on_set)

    def declare(self, items: Iterable[Item]) -> None:
        """Add parameters, for those whose names a bundle decides. Values are checked one by one.

        Raises:
            ContractError: a value that was given for one of them is of the wrong type or out of range.
        """
        for item in items:
            if item.name in self._items:
                continue
            try:
                self._node.declare_parameter(item.name, item.default, _descriptor(item))  # calls `_on_set`, too
            except InvalidParameterValueException as error:
                raise ContractError(f"{' '.join(str(error).split())} ({item.description})") from error
            self._items[item.name] = item
            _fit(item, self._node.get_parameter(item.name).value)

    def __getitem__(self, name: str) -> Any:
        return _fit(self._items[name], self._node.get_parameter(name).value)

    def values(self, prefix: str = "") -> dict[str, Any]:
        """All whose names begin with `prefix`, by the rest of their names."""
        return {name.removeprefix(prefix): self[name] for name in self._items if name.startswith(prefix)}

    def _on_set(self, given: list[Parameter]) -> SetParametersResult:
        mine = {parameter.name: parameter.value for parameter in given if parameter.name in self._items}
        if not mine:
            return SetParametersResult(successful=True)
        try:
            for name in mine:
                if self._frozen() and not self._items[name].always:
                    raise ContractError(f"{name}: cannot change while the node is active; deactivate it first")
            self._check({**self.values(), **{name: _fit(self._items[name], value) for name, value in mine.items()}})
        except (ValueError, EdgevlmError) as error:
            return SetParametersResult(successful=False, reason=told(error))
        return SetParametersResult(successful=True)


def told(error: Exception) -> str:
    """One line for a person: pydantic's first fault with its place, or the message."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']} (got {first['input']!r:.80})"
    return " ".join(str(error).split())


def _descriptor(item: Item) -> ParameterDescriptor:
    # Dynamic typing lets YAML say 1 where 1.0 is meant; `_fit` checks the type instead.
    descriptor = ParameterDescriptor(description=item.description, dynamic_typing=True)
    bounds = (item.low, item.high)
    if isinstance(item.default, bool) or bounds == (None, None):
        return descriptor
    low, high = (-1e308 if item.low is None else item.low), (1e308 if item.high is None else item.high)
    if isinstance(item.default, int):
        descriptor.integer_range = [IntegerRange(from_value=int(max(low, -(2**62))), to_value=int(min(high, 2**62)))]
    elif isinstance(item.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
    return descriptor


def _fit(item: Item, value: Any) -> Any:
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
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return None
    items = list(value)
    if (default and isinstance(default[0], str)) or all(isinstance(item, str) for item in items):
        return items if all(isinstance(item, str) for item in items) else None
    return [float(item) for item in items] if not any(isinstance(item, bool) for item in items) else None


def _kind(default: Value) -> str:
    if isinstance(default, list):
        return "a list of texts" if default and isinstance(default[0], str) else "a list"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[type(default)]
