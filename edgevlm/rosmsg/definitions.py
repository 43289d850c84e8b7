"""Message definitions of recordings (ros2msg, and ros2idl of types that are known) are looked at before they are used.

A definition comes with the file, so it may be anything: without fields, with a type that nobody defines or that holds
itself, or of endless length. Source: https://design.ros2.org/articles/legacy_interface_definition.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import NamedTuple

LONGEST_TEXT = 1 << 20  # bytes of one definition with all it uses
MOST_TYPES = 512
MOST_FIELDS = 4096  # of all types; the decoder's library compares the names of a type each with each
DEEPEST = 32
LARGEST_ARRAY = 1 << 24

PLAIN = frozenset(
    ("bool", "byte", "char", "float32", "float64", "string", "wstring")
    + tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
)
TIME = "int32 sec\nuint32 nanosec\n"
_BUILT_IN = {"builtin_interfaces/Time": TIME, "builtin_interfaces/Duration": TIME}  # known without a definition
_RULE = re.compile(r"^={3,}$", re.MULTILINE)
_FIELD = re.compile(
    r"(?P<type>[a-zA-Z][\w/]*)(?:<=[0-9]+)?(?P<array>\[(?:(?:<=)?(?P<size>[0-9]+))?\])?\s+(?P<name>[a-zA-Z]\w*)\s*(?P<rest>.*)",
    re.ASCII,
)


class Field(NamedTuple):
    """One field of a definition; `type_name` is plain or as `package/Name`, `array` as it is written, such as "[3]"."""

    type_name: str
    array: str
    name: str


def check_definition(type_name: str, text: str) -> dict[str, tuple[Field, ...]]:
    """The types of a ros2msg definition by their short names, the root's first.

    Raises:
        ValueError: it cannot be decoded by, and why.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"is {len(text)} characters long; expected at most {LONGEST_TEXT}")
    first, *others = _RULE.split(text)
    if len(others) >= MOST_TYPES:
        raise ValueError(f"has {len(others) + 1} types; expected at most {MOST_TYPES}")
    root = short_name(type_name)
    bodies = {root: first}
    for part in others:
        head, _, body = part.lstrip("\n").partition("\n")
        name = short_name(head.removeprefix("MSG:").strip())
        if not head.startswith("MSG:") or bodies.setdefault(name, body) != body:
            raise ValueError(f"has a part {head[:40]!r} that defines no type, or one that is defined twice")
    types = {name: parse_fields(name, body) for name, body in {**_BUILT_IN, **bodies}.items()}
    if (fields := sum(map(len, types.values()))) > MOST_FIELDS:
        raise ValueError(f"has {fields} fields; expected at most {MOST_FIELDS}")
    if not types[root]:
        raise ValueError("has no fields")
    _walk(types, root, (), set())
    return {root: types[root], **types}


def check_layout(type_name: str, text: str, known: str) -> None:
    """Refuse a definition that lays out its messages in another way than the known one of this name.

    Raises:
        ValueError: the first place where they differ.
    """
    got, expected = (_flat(check_definition(type_name, each), short_name(type_name)) for each in (text, known))
    for have, want in zip_longest(got, expected):
        if have != want:
            raise ValueError(f"is not that of ROS 2: expected {want or 'no more'}, got {have or 'no more'}")


def check_idl(type_name: str, text: str, known: str) -> None:
    """Refuse a ros2idl definition whose struct has other members than the known one of this name.

    Raises:
        ValueError: they differ, or there is no such struct.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"is {len(text)} characters long; expected at most {LONGEST_TEXT}")
    struct = re.search(rf"struct\s+{re.escape(type_name.split('/')[-1])}\s*\{{([^{{}}]*)\}}", _without_comments(text))
    members = re.findall(r"(\w+)\s*(?:\[[^\]]*\])?\s*;", struct.group(1)) if struct else []
    expected = [field.name for field in check_definition(type_name, known)[short_name(type_name)]]
    if members != expected:
        raise ValueError(f"(IDL) is not that of ROS 2: expected the members {expected}, got {members[:20]}")


def short_name(type_name: str) -> str:
    """`package/Name` of "package/msg/Name"."""
    return type_name.replace("/msg/", "/")


def parse_fields(type_name: str, body: str) -> tuple[Field, ...]:
    """The fields of one type, such as "std_msgs/Header", from its own text.

    Raises:
        ValueError: a line is no field, and why.
    """
    fields = []
    for line in body.splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _FIELD.fullmatch(text)
        if match is None:
            raise ValueError(f"has a line that is no field: {text[:60]!r}")
        if match["rest"].startswith("=") and match["type"] in PLAIN:
            continue  # a constant
        kind = match["type"]
        if kind not in PLAIN:
            kind = short_name(kind if "/" in kind else f"{type_name.split('/')[0]}/{kind}")
        if match["size"] and not 0 < int(match["size"][:12]) <= LARGEST_ARRAY:
            raise ValueError(f"has an array of {match['size'][:12]} elements in {match['name']!r}")
        fields.append(Field(kind, match["array"] or "", match["name"]))
    names = [field.name for field in fields]
    if len(set(names)) != len(names):
        raise ValueError(f"names a field of {type_name} twice")
    return tuple(fields)


def _walk(types: Mapping[str, tuple[Field, ...]], name: str, inside: tuple[str, ...], done: set[str]) -> None:
    """Every type that is used must be there and must not hold itself."""
    if name in inside or len(inside) > DEEPEST:
        raise ValueError(f"holds itself: {' in '.join([name, *reversed(inside[-3:])])}")
    for field in types[name]:
        if field.type_name == "wstring":
            raise ValueError(f"has a wstring in {field.name!r}, which is not read; use string")
        if field.type_name in PLAIN or field.type_name in done:
            continue
        if field.type_name not in types:
            raise ValueError(f"does not define {field.type_name}, the type of {field.name!r}")
        _walk(types, field.type_name, (*inside, name), done)
    done.add(name)


def _flat(types: Mapping[str, tuple[Field, ...]], name: str, path: str = "") -> Iterator[str]:
    """Each plain field with its path, type and array, in the order of the bytes."""
    for field in types[name]:
        where = f"{path}{field.name}"
        if field.type_name in PLAIN:
            yield f"{field.type_name}{field.array} {where}"
        else:
            yield from _flat(types, field.type_name, f"{where}{field.array}.")


def _without_comments(text: str) -> str:
    """IDL without comments and texts; linear in its length, whatever it is."""
    head, *rest = text.split("/*")
    bare = head + "".join(part.partition("*/")[2] for part in rest)
    return re.sub(r'"[^"\n]*"', "", re.sub(r"//[^\n]*", "", bare))
