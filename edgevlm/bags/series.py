"""State fields of a recording as series over their stamps."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bags.container import Container, MessageRef
from edgevlm.bags.topics import StateSource, TopicMap, unit_factor
from edgevlm.contract import StateSpec
from edgevlm.errors import LogError, require

_STEP = re.compile(r"(\w+)|\[(\d+)\]")


@dataclass(frozen=True)
class Series:
    """One state field, in the contract's unit, in the order of log times."""

    log_ns: NDArray[np.int64]  # (M,)
    stamps_ns: NDArray[np.int64]  # (M,)
    values: NDArray[np.float32]  # (M,)


def decoder(container: Container, topic: str) -> Callable[[bytes], Any]:
    """What turns a topic's messages into objects.

    Raises:
        LogError: the topic is not CDR with a ros2msg schema, such as a ROS 1 recording.
    """
    channel = next(channel for channel in container.channels.values() if channel.topic == topic)
    factory = require("mcap_ros2.decoder", extra="bags").DecoderFactory()
    try:
        decode: Callable[[bytes], Any] | None = factory.decoder_for(channel.encoding, channel.schema)
    except Exception as error:  # the library's parser of definitions raises kinds of its own, and NameError
        raise LogError(f"{container.path}: topic {topic} has a schema that cannot be read ({error})") from error
    if decode is None:
        raise LogError(
            f"{container.path}: topic {topic}: expected ROS 2 messages (cdr, ros2msg), got "
            f"{channel.encoding or 'none'}, {channel.schema_encoding or 'no schema'}; convert the recording to ROS 2"
        )
    return decode


def messages(container: Container, topic: str) -> Iterator[tuple[MessageRef, Any]]:
    """Every message of a topic, decoded, by log time; damaged ones are left out with a warning."""
    decode = decoder(container, topic)
    damaged = 0
    for ref in container.select(topic):
        try:
            message = decode(container.read(ref))
        except (ValueError, LookupError, TypeError, struct.error):  # what the decoder makes of damaged bytes
            damaged += 1
            continue
        yield ref, message
    if damaged:
        container.warnings.append(f"{container.path}: topic {topic}: {damaged} damaged message(s) left out")


def read_series(container: Container, topics: TopicMap, spec: StateSpec) -> tuple[Series, ...]:
    """One series for each field of the state, in the contract's order.

    Raises:
        LogError: a joint or a path that no message of its topic has.
    """
    collected: dict[str, list[tuple[int, int, float]]] = {field.name: [] for field in spec.fields}
    for topic in dict.fromkeys(source.topic for source in topics.state.values()):
        wanted = {name: source for name, source in topics.state.items() if source.topic == topic}
        _collect(container, topic, wanted, collected)
    series = []
    for field in spec.fields:
        source = topics.state[field.name]
        factor = unit_factor(source.unit or field.unit, field.unit)
        series.append(_series(container, field.name, collected[field.name], factor))
    return tuple(series)


def _collect(
    container: Container,
    topic: str,
    wanted: dict[str, StateSource],
    collected: dict[str, list[tuple[int, int, float]]],
) -> None:
    seen: set[str] = set()
    for ref, message in messages(container, topic):
        stamp_ns = stamp_of(message, ref.log_ns)
        if any(source.joint for source in wanted.values()):
            seen.update(message.name)
        for name, source in wanted.items():
            value = joint_value(message, source) if source.joint else value_at(message, source, str(container.path))
            if value is not None:
                collected[name].append((ref.log_ns, stamp_ns, value))
    if missing := sorted(name for name in wanted if not collected[name]):
        places = [wanted[name].joint or wanted[name].path for name in missing]
        raise LogError(
            f"{container.path}: topic {topic} never has {places} for the state's {missing}; "
            f"its joints are {sorted(seen)}; correct the topic map"
        )


def stamp_of(message: Any, log_ns: int) -> int:
    """The header's stamp; the log time for messages without a header, or with a stamp nobody set."""
    header = getattr(message, "header", None)
    stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec if header is not None else 0
    return stamp_ns or log_ns


def joint_value(message: Any, source: StateSource) -> float | None:
    """The joint's number; None when this message is about other joints."""
    values = getattr(message, source.quantity)
    if source.joint not in message.name:
        return None
    index = message.name.index(source.joint)
    return float(values[index]) if index < len(values) else None


@functools.lru_cache
def _steps(path: str) -> tuple[str | int, ...]:
    return tuple(name or int(index) for name, index in _STEP.findall(path))


def value_at(message: Any, source: StateSource, where: str) -> float | None:
    """The number at the source's path; None when an array is too short for it, or it is no number.

    Raises:
        LogError: the message has no such field; `where` begins the message.
    """
    value = message
    for step in _steps(source.path):
        try:
            value = value[step] if isinstance(step, int) else getattr(value, step)
        except AttributeError as error:
            fields = sorted(name.lstrip("_") for name in getattr(type(value), "__slots__", ()))
            raise LogError(
                f"{where}: topic {source.topic}: path {source.path!r} ends at {step!r}; "
                f"there are {fields}; correct the topic map"
            ) from error
        except (IndexError, TypeError):
            return None
    return float(value) if isinstance(value, int | float | np.number) else None


def _series(container: Container, name: str, rows: list[tuple[int, int, float]], factor: float) -> Series:
    values = np.array([row[2] for row in rows], np.float64) * factor
    finite = np.isfinite(values)
    if not finite.all():
        left_out = int((~finite).sum())
        container.warnings.append(f"{container.path}: state {name!r}: left out {left_out} NaN or infinite value(s)")
    log_ns = np.array([row[0] for row in rows], np.int64)[finite]
    stamps_ns = np.array([row[1] for row in rows], np.int64)[finite]
    return Series(log_ns, stamps_ns, values[finite].astype(np.float32))
