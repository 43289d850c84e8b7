"""Which overrides nobody declares: a misspelt limit must not pass for one. Names and values in, one line out; no ROS.

An override is known when this node declares it, when it is rclpy's own, or when another node of edgevlm declares it: a
file for `/**` is shared by all of them. Names that only a contract decides (`axes.<column>.<limit>`) are checked by the
gate, which knows it; the other nodes check their form.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from edgevlm.errors import ContractError
from edgevlm.gate.limits import AxisLimits, OrientationLimits

# Declared by rclpy itself: Humble has the first, Jazzy both.
RCLPY = ("use_sim_time", "start_type_description_service")
QOS = "qos_overrides."
QOS_VALUES: Mapping[str, tuple[str, ...]] = {
    "reliability": ("reliable", "best_effort", "system_default"),
    "history": ("keep_last", "keep_all", "system_default"),
    "depth": (),
}
AXIS = tuple(name for name in AxisLimits.model_fields if name != "action")
ORIENTATION = tuple(name for name in OrientationLimits.model_fields if name != "actions")
_BY_CONTRACT = re.compile(rf"axes\.[^.]+\.({'|'.join(AXIS)})|orientations\.\d+\.({'|'.join(ORIENTATION)})")
_OF_CONTRACT = ("axes", "orientations")
_QOS_NAME = re.compile(r"qos_overrides\.(?P<topic>/[^.]+)\.(publisher|subscription)\.(?P<policy>[^.]+)")
_PLACEHOLDER = re.compile(
    r"\s*(<[^<>]*>|\$\{[^}]*\}|\$\([^)]*\)|\{\{.*\}\}|@[A-Za-z_]+@|\?{2,}|~|null"
    r"|(TODO|FIXME|TBD|XXX|CHANGE[_ -]?ME|FILL[_ -]?(ME|IN|OUT)|REPLACE[_ -]?ME|YOUR[_ -][A-Z_ -]+)\b.*)\s*",
    re.IGNORECASE,
)
_NEAR = 0.6


def placeholder(value: object) -> bool:
    """Whether a value is what a template has where its user is to write something."""
    return isinstance(value, str) and _PLACEHOLDER.fullmatch(value) is not None


def refuse_undeclared(
    overrides: Mapping[str, Any], own: Collection[str], columns: Collection[str] | None = None
) -> None:
    """Refuse what nobody declares, what rclpy would ignore, and placeholders.

    Args:
        overrides: name -> value, as set for this node.
        own: what this node declares whatever its bundle is.
        columns: the names that the contract decides; None: not known here.

    Raises:
        ContractError: one line that names each of them and the nearest right name.
    """
    if found := faults(overrides, own, columns):
        raise ContractError(f"parameters: {'; '.join(found)}; correct or remove what is named here")


def faults(overrides: Mapping[str, Any], own: Collection[str], columns: Collection[str] | None = None) -> list[str]:
    """As `refuse_undeclared`, a text for each fault in the order of the names."""
    from edgevlm_ros.declared import NODES  # names of every node: needed once, and some stand on this module

    others = {item.name for items in NODES.values() for item in items}
    found = []
    for name, value in sorted(overrides.items()):
        if name.startswith(QOS):
            fault = _qos_fault(name, value)
        elif _declared(name, own, others, columns):
            fault = f"{name} is still the placeholder {value!r}" if placeholder(value) else ""
        else:
            fault = f"{name} is declared by no node{_hint(name, own, others, columns)}"
        found += [fault] if fault else []
    return found


def _declared(name: str, own: Collection[str], others: Collection[str], columns: Collection[str] | None) -> bool:
    if columns is not None and name.partition(".")[0] in _OF_CONTRACT:
        return name in columns
    return name in own or name in others or name in RCLPY or _BY_CONTRACT.fullmatch(name) is not None


def _hint(name: str, own: Collection[str], others: Collection[str], columns: Collection[str] | None) -> str:
    root = name.partition(".")[0]
    if root in _OF_CONTRACT:
        return _contract_hint(name, columns)
    if root == QOS.rstrip("."):
        return f" (expected {QOS}<topic>.publisher|subscription.<policy>)"
    near = nearest(name, own) or nearest(name, (*others, *RCLPY))
    return f" (did you mean {near}?)" if near else " (`ros2 param list` lists the names)"


def _contract_hint(name: str, columns: Collection[str] | None) -> str:
    if columns is None:
        root, _, rest = name.partition(".")
        middle, _, last = rest.partition(".")
        near = nearest(last, AXIS if root == "axes" else ORIENTATION) if middle else ""
        if near:
            return f" (did you mean {root}.{middle}.{near}?)"
        what, fields = ("column", AXIS) if root == "axes" else ("number", ORIENTATION)
        return f" (expected {root}.<{what}>.{{{','.join(fields)}}})"
    near = nearest(name, columns)
    moved = sorted({column.split(".")[1] for column in columns if column.startswith("axes.")})
    axes = f"the contract has the axes {', '.join(moved) or 'none'}"
    return f" ({axes}; did you mean {near}?)" if near else f" ({axes})"


def nearest(name: str, names: Iterable[str]) -> str:
    """The most similar of `names`; empty when none is."""
    return next(iter(get_close_matches(name, sorted(names), n=1, cutoff=_NEAR)), "")


def _qos_fault(name: str, value: object) -> str:
    """An override of the quality of service that rclpy would ignore, or raise at."""
    form = _QOS_NAME.fullmatch(name)
    if form is None:
        return f"{name}: expected {QOS}/<full topic name>.publisher or subscription, and a policy"
    policy = form["policy"]
    if policy not in QOS_VALUES:
        near = nearest(policy, QOS_VALUES)
        return f"{name}: expected one of the policies {', '.join(QOS_VALUES)}" + (f", such as {near}" if near else "")
    if policy == "depth":
        valid = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 100_000
        return "" if valid else f"{name}: expected a whole number from 1 to 100000, got {value!r}"
    known = isinstance(value, str) and value.lower() in QOS_VALUES[policy]
    return "" if known else f"{name}: expected one of {', '.join(QOS_VALUES[policy])}, got {value!r}"
