"""The units of one axis: what commands it, what measures it, and the limits in between must be the same."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

from edgevlm.errors import ContractError
from edgevlm.units import axis_unit, rate_of, rate_order, same_kind

_LOG = logging.getLogger(__name__)


def column_unit(action: str, unit: str, moves: Literal["position", "delta", "velocity"]) -> str:
    """The unit of what is sent for a column of this kind: a rate for all but positions.

    Contracts say "rad" of a velocity as often as "rad/s".

    Raises:
        ContractError: a column of this kind cannot have the unit.
    """
    order = rate_order(unit)
    if order <= (moves == "velocity"):
        return unit if moves == "position" or order else rate_of(unit)
    raise ContractError(
        f"gate: {action!r} is a {moves}: expected a unit such as {axis_unit(unit)!r}, got {unit!r}; correct the unit "
        "in the contract and export again"
    )


def check_measured(action: str, unit: str, field: str, measured: str) -> None:
    """Whether the state field `field` measures the axis of a column: its limits are in the units of the column.

    Nothing is converted: limits, bounds and statistics of one axis in two units are a mistake more often than a wish. A
    number without a unit cannot be compared; that is logged.

    Raises:
        ContractError: the two differ.
    """
    axis = axis_unit(unit)
    if measured == axis:
        return
    if "1" in (measured, axis):
        _LOG.warning(
            "gate: %r is commanded in %r and measured by %r in %r: one has no unit, so they are taken to be the same",
            *(action, unit, field, measured),
        )
        return
    how = "the same kind in another size" if same_kind(measured, axis) else "two kinds"
    raise ContractError(
        f"gate: {action!r} is commanded in {unit!r}, and {field!r}, which measures it, is in {measured!r}: {how}; "
        f"export the bundle with both in one unit ({axis!r}), or name another state field"
    )


def check_rotation(actions: Sequence[str], units: Sequence[str], form: str) -> None:
    """Whether the parts of an orientation, sent or measured, are what its form is made of. Raises ContractError."""
    for name, unit in zip(actions, units, strict=True):
        if unit not in ("1", "rad"):
            raise ContractError(
                f"gate: {name!r} is part of an orientation as {form}: expected the unit '1' or 'rad', got {unit!r}; "
                "convert it in the training data, and export again"
            )
