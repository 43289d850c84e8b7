"""Declared parameters: a default, a description and a range each; bad values are refused when they are set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from edgevlm.errors import ContractError, EdgevlmError
from edgevlm_ros.compat import overrides
from edgevlm_ros.parameter_items import Item, Value, fit, one_line
from edgevlm_ros.undeclared_parameters import refuse_undeclared

__all__ = ["Check", "Item", "Parameters", "Value", "one_line"]

Check = Callable[[Mapping[str, Any]], object]


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
        items = tuple(items)
        self._static = frozenset(item.name for item in items)  # whatever the bundle is
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
            fit(item, self._node.get_parameter(item.name).value)

    def __getitem__(self, name: str) -> Any:
        return fit(self._items[name], self._node.get_parameter(name).value)

    def values(self, prefix: str = "") -> dict[str, Any]:
        """All whose names begin with `prefix`, by the rest of their names."""
        return {name.removeprefix(prefix): self[name] for name in self._items if name.startswith(prefix)}

    def refuse_undeclared(self, columns: Collection[str] | None = None) -> None:
        """Refuse overrides (command line, files, launch) that nobody declares, or that were never filled in.

        Args:
            columns: names of parameters that the contract decides, where it is known.

        Raises:
            ContractError: which, each with the nearest name.
        """
        values = {name: parameter.value for name, parameter in overrides(self._node).items()}
        refuse_undeclared(values, self._static, columns)

    def _on_set(self, values: list[Parameter]) -> SetParametersResult:
        mine = {parameter.name: parameter.value for parameter in values if parameter.name in self._items}
        if not mine:
            return SetParametersResult(successful=True)
        try:
            for name in mine:
                if self._frozen() and not self._items[name].always:
                    raise ContractError(f"{name}: cannot change while the node is active; deactivate it first")
            self._check({**self.values(), **{name: fit(self._items[name], value) for name, value in mine.items()}})
        except (ValueError, EdgevlmError) as error:
            return SetParametersResult(successful=False, reason=one_line(error))
        return SetParametersResult(successful=True)


def _descriptor(item: Item) -> ParameterDescriptor:
    # Dynamic typing lets YAML say 1 where 1.0 is meant; `fit` checks the type instead.
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
