"""Parameters of the command gate, and the GateLimits they make. Axes and orientations are named by the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from edgevlm.clock import TimeSource
from edgevlm.errors import ContractError
from edgevlm.gate.chunking import ConsumptionIndexed, Executor, LatestChunk, RecedingHorizon, TemporalEnsemble
from edgevlm.gate.columns import columns, orientations
from edgevlm.gate.limits import FALLBACKS, AxisLimits, Cause, GateLimits, OrientationLimits
from edgevlm.manifest.contract import Contract
from edgevlm_ros.parameter_items import AUTOSTART, Item, one_line

_RATE = 1e9
EXECUTORS: Mapping[str, type[LatestChunk] | type[TemporalEnsemble] | type[ConsumptionIndexed]] = {
    "newest": LatestChunk,
    "ensembled": TemporalEnsemble,
    "handed_over": ConsumptionIndexed,
}

ITEMS = (
    *AUTOSTART,
    Item("bundle", "", "directory of the bundle whose contract and hash count; no engine is loaded"),
    Item("topics", "", "YAML file with the topics of the state; empty: joint_states"),
    Item("executor", "newest", f"how chunks become commands: {', '.join(EXECUTORS)}"),
    Item("lock_step", False, "simulation only: one command for each state, waiting for the chunk that it needs"),
    Item("command_topics", [], "a topic for each action group of the contract; empty: named by their kinds"),
    Item("command_period_s", 0.0, "time between commands; 0: the contract's step", 0.0, 10.0),
    Item("command_valid_s", 0.0, "how long a command may be used; 0: three periods", 0.0, 60.0),
    Item("deadline_ms", 300.0, "longest silence of chunks and of heartbeats", 1.0, 60000.0),
    Item("chunk_deadline", "deadline", "how long a chunk may be the newest: deadline (_ms), or whole_chunk"),
    Item("state_max_age_s", 0.2, "oldest measured state to act on", 0.001, 60.0),
    Item("recover_after_s", 0.5, "how long all must be well before chunks are followed again", 0.0, 3600.0),
    Item("future_s", 0.1, "how far a stamp may lie ahead of the clock", 0.001, 60.0),
    Item("reset_after_s", 1.0, "a clock that jumps back by more has restarted", 0.001, 3600.0),
    Item("realtime_priority", 10, "SCHED_FIFO priority from activation on, where permitted; 0: as others", 0, 99),
    Item(
        "estop_topics", ["estop"], "std_msgs/Bool of each emergency stop; silent ones count as pressed; []: no button"
    ),
    Item("estop_deadline_ms", 0.0, "longest silence of a released emergency stop; 0: none", 0.0, 60000.0),
    Item("latched", ["estop"], "causes that only the service ~/rearm ends; estop always among them"),
    *(Item(f"fallback.{cause}", mode, "what to do: hold, decelerate or stop") for cause, mode in FALLBACKS.items()),
)


def contract_items(contract: Contract) -> list[Item]:
    """The parameters that this contract needs: limits of each moving column and of each orientation."""
    items = []
    for name, unit in _moving(contract):
        axis = f"axes.{name}"
        items += [
            Item(f"{axis}.state", "", "state field that measures it; empty: nothing does"),
            Item(f"{axis}.position", [], "lowest and highest of the measured axis; empty: no limit"),
            Item(f"{axis}.velocity", 0.0, f"largest velocity, of a column in {unit}; must be given", 0.0, _RATE),
            Item(
                f"{axis}.acceleration", 0.0, f"largest acceleration, of a column in {unit}; must be given", 0.0, _RATE
            ),
            Item(f"{axis}.tracking", 0.0, "how far a commanded position may be from the measured; 0: none", 0.0, _RATE),
            Item(f"{axis}.continuous", False, "true: a joint without ends (URDF: continuous); leave position empty"),
        ]
    for i, names in enumerate(_turning(contract)):
        turning = f"orientations.{i}"
        items += [
            Item(f"{turning}.state", [], f"state fields that measure {', '.join(names)}, in this order"),
            Item(f"{turning}.velocity", 0.0, "rad/s; must be given", 0.0, _RATE),
            Item(f"{turning}.acceleration", 0.0, "rad/s^2; must be given", 0.0, _RATE),
            Item(f"{turning}.tracking", 0.0, "rad; must be given", 0.0, _RATE),
        ]
    return items


def check(values: Mapping[str, Any], contract: Contract | None) -> None:
    """Refuse values that cannot be, whatever the missing ones will be. Without a contract, those that need none.

    Raises:
        ContractError: which parameter, and why.
    """
    make_executor(values["executor"])
    if contract is None:
        _limits(values, (), (), values["command_valid_s"] or 1.0)  # the period is not known yet
    elif missing(values, contract):
        _limits(values, (), (), contract.action.step_s)
        for name, _ in _moving(contract):
            if values[f"axes.{name}.velocity"] and values[f"axes.{name}.acceleration"]:
                _axis(values, name)
    else:
        gate_limits(values, contract)


def missing(values: Mapping[str, Any], contract: Contract) -> list[str]:
    """Names of parameters that must be given and are not."""
    needed = [f"axes.{name}.{limit}" for name, _ in _moving(contract) for limit in ("velocity", "acceleration")]
    for i, _ in enumerate(_turning(contract)):
        needed += [f"orientations.{i}.{limit}" for limit in ("state", "velocity", "acceleration", "tracking")]
    return [name for name in needed if not values[name]]


def gate_limits(values: Mapping[str, Any], contract: Contract, time: TimeSource = "system") -> GateLimits:
    """The limits, checked against the contract; `time` says in which time they hold.

    Raises:
        ContractError: a limit is missing or does not fit; the message names the parameter.
    """
    if lacking := missing(values, contract):
        raise ContractError(
            f"limits are missing: set the parameters {', '.join(lacking)}; a robot needs the limits of its maker"
        )
    axes = tuple(_axis(values, name) for name, _ in _moving(contract))
    turning = tuple(_orientation(values, i, names) for i, names in enumerate(_turning(contract)))
    limits = _limits(values, axes, turning, contract.action.step_s).model_copy(update={"time": time})
    try:
        columns(contract, limits)
        orientations(contract, limits)
    except ContractError as error:
        raise ContractError(f"{error} (parameters axes.<name>.* and orientations.<i>.*)") from error
    return limits


def make_executor(name: str, execute_steps: int = 1) -> Executor:
    """The executor of this name, asking for a chunk every `execute_steps` rows.

    Raises:
        ContractError: there is none such.
    """
    if name not in EXECUTORS:
        raise ContractError(f"executor: expected one of {', '.join(EXECUTORS)}, got {name!r}")
    return RecedingHorizon(EXECUTORS[name](), execute_steps)


def _limits(
    values: Mapping[str, Any], axes: tuple[AxisLimits, ...], turning: tuple[OrientationLimits, ...], step_s: float
) -> GateLimits:
    period_s = values["command_period_s"] or step_s
    try:
        return GateLimits(
            axes=axes,
            orientations=turning,
            command_period_s=period_s,
            command_valid_s=values["command_valid_s"] or 3 * period_s,
            deadline_s=values["deadline_ms"] / 1000,
            chunk_deadline=values["chunk_deadline"],
            state_max_age_s=values["state_max_age_s"],
            recover_after_s=values["recover_after_s"],
            future_s=values["future_s"],
            reset_after_s=values["reset_after_s"],
            fallbacks={cause: values[f"fallback.{cause}"] for cause in get_args(Cause)},
            latched=tuple(values["latched"]),
        )
    except ValidationError as error:
        raise ContractError(one_line(error)) from error


def _axis(values: Mapping[str, Any], name: str) -> AxisLimits:
    position = values[f"axes.{name}.position"]
    try:
        return AxisLimits(
            action=name,
            state=values[f"axes.{name}.state"] or None,
            position=tuple(position) if position else None,
            velocity=values[f"axes.{name}.velocity"],
            acceleration=values[f"axes.{name}.acceleration"],
            tracking=values[f"axes.{name}.tracking"] or None,
            continuous=values[f"axes.{name}.continuous"],
        )
    except ValidationError as error:
        raise ContractError(f"axes.{name}.{one_line(error)}") from error


def _orientation(values: Mapping[str, Any], i: int, names: tuple[str, ...]) -> OrientationLimits:
    try:
        return OrientationLimits(
            actions=names,
            state=tuple(values[f"orientations.{i}.state"]),
            velocity=values[f"orientations.{i}.velocity"],
            acceleration=values[f"orientations.{i}.acceleration"],
            tracking=values[f"orientations.{i}.tracking"],
        )
    except ValidationError as error:
        raise ContractError(f"orientations.{i}.{one_line(error)}") from error


def _moving(contract: Contract) -> list[tuple[str, str]]:
    """Name and unit of every column that moves by itself: neither a gripper's nor part of an orientation."""
    columns_left = []
    for group in contract.action.groups:
        for name, unit in zip(group.names, group.units, strict=True):
            if group.row.moves and name not in group.turning:
                columns_left.append((name, unit))
    return columns_left


def _turning(contract: Contract) -> list[tuple[str, ...]]:
    """The columns of each orientation."""
    return [group.turning for group in contract.action.groups if group.turning]
