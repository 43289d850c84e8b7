"""Parameter files and ROS arguments, looked at before ROS is: what is wrong with them is one line. No ROS in here.

rcl reads the files itself afterwards; it has one error for all that is wrong, and says nothing of a section that no
node has.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from edgevlm.errors import EdgevlmError, require
from edgevlm_ros.undeclared_parameters import nearest, placeholder

_KEY = "ros__parameters"
_DEEPEST = 16
_LARGEST_BYTES = 4 << 20
_CLOSE = 0.8
_RCL_PLACE = re.compile(r",? at (/[^\s:]+|[\w/.-]+\.c):\d+")


class ArgumentsError(EdgevlmError):
    """A node was started with arguments or a parameter file that it cannot use."""

    exit_code: ClassVar[int] = 2


def parameter_files(arguments: Sequence[str]) -> list[Path]:
    """The parameter files that the ROS arguments of a command line name.

    Source: rcl, arguments.c: ROS arguments lie between `--ros-args` and `--`.
    """
    words, _ = _parted(arguments)
    return [Path(after) for word, after in pairwise(words) if word == "--params-file"]


def stray(arguments: Sequence[str]) -> list[str]:
    """The words of a command line, after the program, that are no ROS arguments: nodes do not look at them."""
    return _parted(arguments)[1]


def sections(path: Path) -> dict[str, Mapping[str, Any]]:
    """The sections of a parameter file: a name or pattern of nodes, with their parameters.

    Raises:
        ArgumentsError: it is no parameter file; the message says why, and what to change.
    """
    loaded = _load(path)
    if not isinstance(loaded, Mapping):
        raise ArgumentsError(f"{path}: expected `<node>: {{{_KEY}: ...}}`, got {_text(loaded)}")
    nodes = dict(_walk(path, loaded, "", _DEEPEST))
    if not nodes:
        raise ArgumentsError(f"{path}: expected `<node>: {{{_KEY}: ...}}`, got an empty file")
    for section, parameters in nodes.items():
        for name, value in _leaves(parameters, "", _DEEPEST):
            if value is None or placeholder(value):
                what = "no value" if value is None else f"the placeholder {value!r}"
                raise ArgumentsError(f"{path}: parameter {name} of {section} has {what}; write its value there")
    return nodes


def section_faults(named: Collection[str], node: str, others: Collection[str]) -> list[str]:
    """What is wrong with the sections of one file for a node: none is meant for it, though one looks as if it were.

    Args:
        named: the file's sections.
        node: the node's full name.
        others: names of nodes, without namespace, that a section may well be for.
    """
    own = node.rpartition("/")[2]
    mine = any(applies(section, node) for section in named)
    faults = []
    for section in named:
        last = section.rstrip("/").rpartition("/")[2]
        if last in ("*", "**") or (mine and last == own):
            continue
        if last == own:
            faults.append(f"section {section!r} is not for {node}; write /**/{own} or {node}")
        elif last not in others and SequenceMatcher(None, last, own).ratio() >= _CLOSE:
            faults.append(f"section {section!r}: no node has this name; did you mean {own}?")
    return faults


def applies(section: str, node: str) -> bool:
    """Whether a section is for a node: `*` stands for one part of the name, `**` for any number of them.

    Source: rcl_yaml_param_parser, node_params.c and rcl's remap wildcards.
    """
    parts = [part for part in section.split("/") if part]
    form = "".join({"*": "/[^/]+", "**": "(/[^/]+)*"}.get(part, f"/{re.escape(part)}") for part in parts)
    return re.fullmatch(form, node) is not None


def rcl_message(error: Exception) -> str:
    """What rcl says of arguments it refuses, without the places in its sources."""
    text = " ".join(str(error).split())
    text = _RCL_PLACE.sub("", text).removeprefix("failed to initialize rcl: ")
    return f"unknown: {text}" if text.startswith("[") else text or type(error).__name__


def _parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    parts: tuple[list[str], list[str]] = [], []
    ros = False
    for word in arguments[1:]:
        if word in ("--ros-args", "--"):
            ros = word == "--ros-args"
        else:
            parts[0 if ros else 1].append(word)
    return parts


def _load(path: Path) -> Any:
    yaml = require("yaml", extra="bags")
    try:
        if path.is_file() and path.stat().st_size > _LARGEST_BYTES:
            raise ArgumentsError(f"{path}: expected a parameter file, got one of {path.stat().st_size} bytes")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArgumentsError(f"{path}: cannot be read ({error.strerror}); expected a parameter file") from error
    except UnicodeDecodeError as error:
        raise ArgumentsError(f"{path}: expected YAML, got bytes that are no text ({error.reason})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        template = " (a template that was not filled in?)" if "{{" in path.read_text(encoding="utf-8") else ""
        reason = " ".join(str(error).split()) or "nested too deeply"
        raise ArgumentsError(f"{path}: expected YAML{template}, got an error: {reason}") from error


def _walk(path: Path, node: Mapping[Any, Any], name: str, deepest: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, value in node.items():
        if key == _KEY:
            if not isinstance(value, Mapping):
                raise ArgumentsError(f"{path}: {_KEY} of {name or '/'}: expected parameters, got {_text(value)}")
            yield name or "/", value
            continue
        place = f"{name}/{str(key).strip('/')}"
        if not isinstance(value, Mapping) or not deepest:
            near = f" (did you mean {_KEY}?)" if nearest(str(name.rpartition("/")[2]), [_KEY]) else ""
            raise ArgumentsError(
                f"{path}: expected `<node>: {{{_KEY}: {{{key}: ...}}}}`, got {place.lstrip('/')!r} outside of any "
                f"{_KEY}{near}"
            )
        yield from _walk(path, value, place, deepest - 1)


def _leaves(parameters: Mapping[Any, Any], prefix: str, deepest: int) -> Iterator[tuple[str, Any]]:
    for key, value in parameters.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and deepest:
            yield from _leaves(value, f"{name}.", deepest - 1)
        elif isinstance(value, list):
            yield from ((name, item) for item in value)
        else:
            yield name, value


def _text(value: object) -> str:
    return "nothing" if value is None else f"{value!r:.60}"
