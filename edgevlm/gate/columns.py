"""The columns of a contract's chunk as the axes of a robot: what is sent for each, and its limits in one place.

An absolute column is sent as a position, every other moving column as a velocity: a delta relative to the previous
row becomes delta / step_s. A delta relative to the observation becomes a position by the state measured then. What
commands an axis, what measures it, and the limits in between must be in one unit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgevlm.errors import ContractError
from edgevlm.gate.limits import AxisLimits, GateLimits, OrientationLimits
from edgevlm.gate.rotation import Geometry, RotationForm
from edgevlm.manifest.contract import ActionGroup, Contract
from edgevlm.units import axis_unit, rate_of, rate_order, same_kind

Sent = Literal["position", "velocity", "orientation", "value"]

_LOG = logging.getLogger(__name__)
_TURNS: Mapping[str, float] = {"rad": math.tau, "deg": 360.0}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the chunk, and what its command may be.

    Attributes:
        sent: what is sent for it: a position, a velocity, a part of an orientation, or a bounded value (gripper).
        divide_s: a chunk's value is divided by this to be a velocity; 1.0 when it is one already.
        relative: the chunk's value is added to the state at the observation; `bounds` apply before that.
        bounds: the contract's bounds of the chunk's values.
        lower, upper: of the velocity; of the value itself where nothing moves at a rate.
        state: index of the state field that measures it, or None.
        low, high: the range of the position, infinite when there is none.
        tracking: how far the command may be from the measured position.
        period: of a joint without ends: positions so far apart are the same; 0.0 of all others.
    """

    name: str
    unit: str
    sent: Sent
    bounds: tuple[float, float]
    lower: float
    upper: float
    acceleration: float = math.inf
    divide_s: float = 1.0
    relative: bool = False
    state: int | None = None
    low: float = -math.inf
    high: float = math.inf
    tracking: float = math.inf
    period: float = 0.0


@dataclass(frozen=True)
class Orientation:
    """The columns of one orientation, with the indices of their state fields."""

    columns: tuple[int, ...]
    state: tuple[int, ...]
    form: RotationForm
    limits: OrientationLimits


def columns(contract: Contract, limits: GateLimits) -> tuple[Column, ...]:
    """Every column of the contract's chunk, in order.

    Raises:
        ContractError: limits are missing for a column, name one that is not there, or cannot hold for its kind.
    """
    axes = {axis.action: axis for axis in limits.axes}
    turning = {name for orientation in limits.orientations for name in orientation.actions}
    collected = []
    for group in contract.action.groups:
        first_turning = len(group.names) - len(group.turning)
        for i, name in enumerate(group.names):
            if i >= first_turning:
                if name not in turning:
                    raise ContractError(f"gate: {name!r} is part of an orientation; name it in limits.orientations")
                collected.append(_still(group, i, "orientation"))
                turning.discard(name)
            elif not group.row.moves:
                collected.append(_still(group, i, "value"))
            else:
                collected.append(_moving(contract, group, i, axes.pop(name, None)))
    if left := [*axes, *sorted(turning)]:
        raise ContractError(
            f"gate: limits name {left}, which do not move like that; the contract's actions are {contract.action.names}"
        )
    return tuple(collected)


def orientations(contract: Contract, limits: GateLimits) -> tuple[Orientation, ...]:
    """Every orientation that the limits name; call `columns` first.

    Raises:
        ContractError: a state field is missing, or the columns are not one group's rotation.
    """
    return tuple(_orientation(contract, orientation, limits.command_valid_s) for orientation in limits.orientations)


def rotations(contract: Contract) -> tuple[tuple[RotationForm, tuple[int, ...]], ...]:
    """The form and the columns of every orientation in a contract's actions."""
    forms: list[tuple[RotationForm, tuple[int, ...]]] = []
    end = 0
    for group in contract.action.groups:
        end += len(group.names)
        if (count := len(group.turning)) and group.rotation != "none":
            forms.append((group.rotation, tuple(range(end - count, end))))
    return tuple(forms)


def geometry(columns: Sequence[Column], orientations: Sequence[Orientation]) -> Geometry:
    """What an executor must know to average rows."""
    return Geometry(
        rotations=tuple((turning.form, turning.columns) for turning in orientations),
        periods=tuple((i, column.period) for i, column in enumerate(columns) if column.period),
    )


def _orientation(contract: Contract, limits: OrientationLimits, command_valid_s: float) -> Orientation:
    what = f"gate: orientation {limits.actions}"
    group = next((group for group in contract.action.groups if set(limits.actions) <= set(group.names)), None)
    if group is None or group.rotation == "none" or group.turning != limits.actions:
        raise ContractError(f"{what}: expected the last columns of one ee_pose with a rotation, in its order")
    if len(limits.state) != len(limits.actions):
        raise ContractError(f"{what}: expected a state field for each, in the same form, got {limits.state}")
    if group.relative_to != "none":
        raise ContractError(f"{what}: relative to {group.relative_to} is not supported; make it absolute")
    if limits.velocity * command_valid_s > math.pi / 2:
        raise ContractError(
            f"{what}: may turn {limits.velocity} rad/s for {command_valid_s} s, over a quarter turn in one command; "
            "lower its velocity or command_valid_s"
        )
    state = tuple(_state_index(contract, limits.actions[0], name) for name in limits.state)
    check_rotation(limits.actions, group.units[-len(limits.actions) :], group.rotation)
    check_rotation(limits.state, [_state_unit(contract, i) for i in state], group.rotation)
    return Orientation(
        tuple(contract.action.names.index(name) for name in limits.actions), state, group.rotation, limits
    )


def _state_index(contract: Contract, action: str, field: str) -> int:
    names = contract.state.names if contract.state else ()
    if field not in names:
        raise ContractError(f"gate: {action!r} is measured by {field!r}, but the contract's state is {names}")
    return names.index(field)


def _state_unit(contract: Contract, index: int) -> str:
    assert contract.state is not None
    return contract.state.fields[index].unit


def _measured_by(contract: Contract, group: ActionGroup, i: int, field: str) -> int:
    """Index of the state field that measures a column, in its unit."""
    index = _state_index(contract, group.names[i], field)
    check_measured(group.names[i], group.units[i], field, _state_unit(contract, index))
    return index


def _bounds(group: ActionGroup, i: int) -> tuple[float, float]:
    """As float32, the resolution of a chunk: a model that saturates at a limit is within it."""
    return float(np.float32(group.lower[i])), float(np.float32(group.upper[i]))


def _still(group: ActionGroup, i: int, sent: Literal["orientation", "value"]) -> Column:
    lower, upper = _bounds(group, i)
    return Column(name=group.names[i], unit=group.units[i], sent=sent, bounds=(lower, upper), lower=lower, upper=upper)


def _moving(contract: Contract, group: ActionGroup, i: int, axis: AxisLimits | None) -> Column:
    name = group.names[i]
    if axis is None:
        raise ContractError(f"gate: {name!r} has no limits; add it to limits.axes")
    if moves_by_rate(group, name):
        return _velocity(contract, group, i, axis)
    if axis.state is None or axis.tracking is None or (axis.position is None and not axis.continuous):
        raise ContractError(
            f"gate: {name!r} is sent as a position: give it state, tracking and position in limits.axes, or continuous "
            "instead of position where the joint has no ends"
        )
    period = _period(name, group.units[i], axis)
    bounds, (low, high) = _bounds(group, i), axis.position or (-math.inf, math.inf)
    relative = group.relative_to == "observation"
    if not relative and not period:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    if low >= high:
        raise ContractError(f"gate: {name!r} may be nowhere: the contract says {bounds}, the limits {axis.position}")
    return Column(
        name=name,
        unit=column_unit(name, group.units[i], "position"),
        sent="position",
        bounds=bounds,
        lower=-axis.velocity,
        upper=axis.velocity,
        acceleration=axis.acceleration,
        relative=relative,
        state=_measured_by(contract, group, i, axis.state),
        low=low,
        high=high,
        tracking=axis.tracking,
        period=period,
    )


def _period(name: str, unit: str, axis: AxisLimits) -> float:
    if not axis.continuous:
        return 0.0
    if unit not in _TURNS:
        raise ContractError(f"gate: {name!r} is continuous, so its unit must be rad or deg, got {unit!r}")
    if axis.tracking is not None and axis.tracking >= _TURNS[unit] / 2:
        raise ContractError(
            f"gate: {name!r} is continuous, and nothing is further than half a turn: expected tracking under "
            f"{_TURNS[unit] / 2:.4g} {unit}, got {axis.tracking}"
        )
    return _TURNS[unit]


def _velocity(contract: Contract, group: ActionGroup, i: int, axis: AxisLimits) -> Column:
    bounds = _bounds(group, i)
    is_delta = group.row.per_step
    divide_s = contract.action.step_s if is_delta else 1.0
    low, high = axis.position or (-math.inf, math.inf)
    lower, upper = max(bounds[0] / divide_s, -axis.velocity), min(bounds[1] / divide_s, axis.velocity)
    if not lower <= 0 <= upper:
        raise ContractError(f"gate: {group.names[i]!r} may not stand still: its range is {bounds}; let it include 0")
    return Column(
        name=group.names[i],
        unit=column_unit(group.names[i], group.units[i], "delta" if is_delta else "velocity"),
        sent="velocity",
        bounds=bounds,
        lower=lower,
        upper=upper,
        acceleration=axis.acceleration,
        divide_s=divide_s,
        state=None if axis.state is None else _measured_by(contract, group, i, axis.state),
        low=low,
        high=high,
    )


def moves_by_rate(group: ActionGroup, name: str) -> bool:
    """Whether a velocity is sent; what can be read in two ways is refused."""
    row, sent = group.row, group.row.sent.get(group.relative_to)
    if group.rotation == "quaternion_xyzw" and row.rotation != "orientation":
        raise ContractError(f"gate: {name!r}: a {group.kind} with a quaternion is not supported; use a rotation vector")
    if row.rotation == "columns" and group.rotation != "none" and sent == "position":
        raise ContractError(
            f"gate: {name!r}: rotations relative to the observation cannot be added column by column; make them "
            "relative to 'previous', or an absolute ee_pose"
        )
    if sent is not None:
        return sent == "velocity"
    raise ContractError(
        f"gate: {name!r}: a {group.kind} relative to {group.relative_to!r} can be read in two ways; "
        "a delta is relative to 'previous' or 'observation', a position to 'none' or 'observation'"
    )


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
