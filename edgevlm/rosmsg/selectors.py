"""Paths into messages, the same for live topics and recordings.

    pose.position.x                                             fields
    data[2]                                                     an element by its index
    transforms[child_frame_id=tool0].transform.translation.x    the element whose field has this value
    position[name=gripper]                                      an element by an array of names next to it

A key is a field of the elements, or an array of the structure around them (of the innermost one that has it). An index
into something that has names is refused: their order is the driver's, and changes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevlm.errors import LogError

_STEP = re.compile(r"([a-zA-Z]\w*)(?:\[(?:([0-9]{1,9})|([a-zA-Z][\w.]*)=([^\[\]]+))\])?", re.ASCII)
_NAMES = re.compile(r"names?|\w+_names?|joints|labels?", re.ASCII)
_NUMBERED = re.compile(r"ids?|\w+_ids?", re.ASCII)
_KEYS = ("child_frame_id", "name", "joint_name", "id")  # of the fields that name an element, the first in a message
_SHOWN = 8


@dataclass(frozen=True)
class Step:
    """One field, and which element of it: by `index`, by `key` and `value`, or none."""

    field: str
    index: int | None = None
    key: str = ""
    value: str = ""

    def __str__(self) -> str:
        if self.key:
            return f"{self.field}[{self.key}={self.value}]"
        return self.field if self.index is None else f"{self.field}[{self.index}]"


@dataclass(frozen=True)
class Reading:
    """A number of a message, and the header that stands nearest to it; None: there is none on the way."""

    value: float
    header: Any | None


@dataclass(frozen=True)
class Absent:
    """This message has no number at the path, and why."""

    reason: str


@functools.lru_cache(maxsize=1024)
def parse_path(path: str) -> tuple[Step, ...]:
    """The steps of a path.

    Raises:
        ValueError: it is none.
    """
    steps: list[Step] = []
    at = 0
    while match := _STEP.match(path, at):
        field, index, key, value = match.groups()
        steps.append(Step(field, None if index is None else int(index), key or "", value or ""))
        at = match.end()
        if at == len(path):
            return tuple(steps)
        if path[at] != ".":
            break
        at += 1
    raise ValueError(
        f"path {path!r} is none such as pose.position.x, data[2], position[name=gripper] or "
        "transforms[child_frame_id=tool0].transform.translation.x"
    )


def field_names(message: Any) -> tuple[str, ...]:
    """The fields of a message, rclpy's or decoded from a recording; none for a number, a text or an array."""
    describe = getattr(type(message), "get_fields_and_field_types", None)
    return tuple(describe() if describe is not None else getattr(type(message), "__slots__", ()))


def read_number(message: Any, steps: Sequence[Step], where: str) -> Reading | Absent:
    """The number at the path.

    Args:
        where: begins the message of what is raised.

    Raises:
        LogError: a field that is not there, an index into something that has names, or a name that is there twice.
    """
    around: list[Any] = []  # the structures on the way, outermost first
    header = _header(message)
    here = message
    for step in steps:
        fields = field_names(here)
        if step.field not in fields:
            raise LogError(f"{where} ends at {step.field!r}; there are {sorted(fields)}; correct the topic map")
        around.append(here)
        here = getattr(here, step.field)
        if step.key or step.index is not None:
            index = _index(around, step, here, where)
            if isinstance(index, Absent):
                return index
            here = here[index]
        inner = _header(here)
        header = header if inner is None else inner
    if isinstance(here, int | float | np.number):
        return Reading(float(here), header)
    kind = "a structure" if field_names(here) else "text" if isinstance(here, str) else "an array"
    return Absent(f"{steps[-1]} is {kind} and no number")


def _header(value: Any) -> Any | None:
    header = getattr(value, "header", None) if "header" in field_names(value) else None
    return header if header is not None and {"stamp", "frame_id"} <= set(field_names(header)) else None


def _index(around: Sequence[Any], step: Step, array: Any, where: str) -> int | Absent:
    if not is_array(array):
        raise LogError(f"{where}: {step.field!r} is no array; correct the topic map")
    if step.index is not None:
        if selector := _selector(around, step, array):
            raise LogError(
                f"{where}: {step} is an index into something that has names, whose order may change; write {selector}"
            )
        if step.index < len(array):
            return step.index
        return Absent(f"{step.field} is empty" if not len(array) else f"{step.field} has {len(array)} element(s)")
    keys = _keys(around, step, array)
    if keys is None:
        if not len(array):
            return Absent(f"{step.field} is empty")
        inside = sorted(field_names(array[0])) or sorted(set(field_names(around[-1])) - {step.field})
        raise LogError(f"{where}: nothing in {step.field!r} is named by {step.key!r}; there are {inside}")
    return _position(keys, step, len(array), where)


def _position(keys: Sequence[str], step: Step, length: int, where: str) -> int | Absent:
    count = keys.count(step.value)
    if count > 1:
        raise LogError(f"{where}: {step.key} {step.value!r} stands {count} times in one message; check the publisher")
    if not count:
        shown = ", ".join(sorted(set(keys))[:_SHOWN]) or "none"
        return Absent(f"no {step.key} {step.value!r}; there are {shown}")
    if not length:
        return Absent(f"{step.field} is empty")
    if length != len(keys):
        return Absent(f"{step.field} has {length} element(s) for {len(keys)} names")
    return keys.index(step.value)


def _keys(around: Sequence[Any], step: Step, array: Any) -> list[str] | None:
    """What each element is called; None: nothing has this key."""
    if len(array) and (first := _at(array[0], step.key)) is not None and not is_array(first):
        return [str(_at(element, step.key)) for element in array]
    for structure in reversed(around):
        names = _at(structure, step.key)
        if names is not None and is_array(names) and step.key != step.field:
            return [str(name) for name in names]
    return None


def _at(structure: Any, path: str) -> Any | None:
    for name in path.split("."):
        if name not in field_names(structure):
            return None
        structure = getattr(structure, name)
    return structure


def _selector(around: Sequence[Any], step: Step, array: Any) -> str:
    """What to write in place of an index; empty: the elements have no names."""
    assert step.index is not None
    index = step.index if step.index < len(array) else 0
    if not len(array):
        return ""
    if key := _own_key(array[index]):
        return f"{step.field}[{key}={getattr(array[index], key)}]"
    for structure in reversed(around):
        for field in field_names(structure):
            names = getattr(structure, field)
            if field != step.field and is_array(names) and _name_elements(field, names, array, structure is around[-1]):
                return f"{step.field}[{field}={names[index] if index < len(names) else names[0]}]"
    return ""


def _own_key(element: Any) -> str:
    """The field that an element is named by."""
    fields = field_names(element)
    texts = [field for field in fields if isinstance(getattr(element, field), str) and getattr(element, field)]
    numbers = [field for field in fields if field == "id" and isinstance(getattr(element, field), int)]
    named = [*texts, *numbers]
    return next((key for key in _KEYS if key in named), named[0] if named else "")


def _name_elements(field: str, names: Any, array: Any, innermost: bool) -> bool:
    """Whether `names` says what the elements of `array` are; `innermost`: they stand in the same structure."""
    if not len(names):
        return False
    if not isinstance(names[0], str):
        return len(names) == len(array) and isinstance(names[0], int) and _NUMBERED.fullmatch(field) is not None
    if _NAMES.fullmatch(field) is None or _has_lists(array[0]):
        return False
    return len(names) == len(array) or (innermost and not field_names(array[0]))  # lists of unequal lengths


def _has_lists(element: Any) -> bool:
    """Whether names around an element are of what its lists hold, as a trajectory's are: its points have none."""
    return any(is_array(getattr(element, field)) for field in field_names(element))


def is_array(value: Any) -> bool:
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, str)
