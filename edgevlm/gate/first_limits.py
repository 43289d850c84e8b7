"""A first file of a gate's limits, made of a contract: what it says is filled in, the rest is left to be written."""

from __future__ import annotations

from edgevlm.gate.columns import moves_by_rate
from edgevlm.manifest.contract import ActionGroup, Contract

OPEN = '"??"'  # what the gate refuses as a placeholder, by name

_HEAD = """\
# First limits of command_gate, from the contract of {bundle}.
# "??": the contract cannot know it; write the value of your robot's maker, lower at first. The gate does not start
# while one is left. Lengths and rates are in the units that stand behind each column; position: [] for no limit of
# a column that moves by its rate. What may measure a column: {fields}.
/**/command_gate:
  ros__parameters:
    estop_topics: [estop]     # std_msgs/Bool of each emergency stop; [] for none
    axes:
"""


def first_limits(contract: Contract, bundle: str = "a bundle") -> str:
    """The YAML of a parameter file for `command_gate`, with OPEN wherever only who knows the robot can say."""
    fields = (
        ", ".join(f"{field.name} [{field.unit}]" for field in contract.state.fields) if contract.state else "nothing"
    )
    lines, turning = [_HEAD.format(bundle=bundle, fields=fields)], []
    for group in contract.action.groups:
        if group.turning:
            turning.append(group.turning)
        if group.row.moves:  # those are bounded by the contract alone
            for i in range(len(group.names) - len(group.turning)):
                lines.append(_axis(contract, group, i))
    if turning:
        lines.append("    orientations:\n")
    lines += [_orientation(i, contract, names) for i, names in enumerate(turning)]
    return "".join(lines)


def _axis(contract: Contract, group: ActionGroup, i: int) -> str:
    name, unit = group.names[i], group.units[i]
    low, high = group.lower[i], group.upper[i]
    rate = moves_by_rate(group, name)
    state = _field(contract, name, unit)
    position, tracking, velocity = OPEN, "0.0" if rate else OPEN, OPEN
    if rate:
        step_s = contract.action.step_s if group.row.per_step else 1.0
        velocity = _number(max(abs(low), abs(high)) / step_s)
    elif group.relative_to == "none":
        position = f"[{_number(low)}, {_number(high)}]"
    note = f"{unit}; velocity: as fast as the contract lets a chunk be" if rate else unit
    return (
        f"      {name}:  # {note}\n"
        f"        state: {state or OPEN}\n"
        f"        position: {position}\n"
        f"        velocity: {velocity}\n"
        f"        acceleration: {OPEN}\n"
        f"        tracking: {tracking}\n"
    )


def _number(value: float) -> str:
    """A YAML float: a parameter of a node is never an integer here."""
    return repr(float(f"{value:.6g}"))


def _orientation(i: int, contract: Contract, names: tuple[str, ...]) -> str:
    fields = [_field(contract, name, None) for name in names]
    state = f"[{', '.join(fields)}]" if all(fields) else OPEN
    return (
        f'      "{i}":  # {", ".join(names)}; rad, rad/s, rad/s^2\n'
        f"        state: {state}\n"
        f"        velocity: {OPEN}\n"
        f"        acceleration: {OPEN}\n"
        f"        tracking: {OPEN}\n"
    )


def _field(contract: Contract, name: str, unit: str | None) -> str:
    """The state field that measures a column, where the contract has one of the same name and kind; else nothing."""
    for field in contract.state.fields if contract.state else ():
        if field.name == name and (unit is None or field.unit == unit):
            return field.name
    return ""
