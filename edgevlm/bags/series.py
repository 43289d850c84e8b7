"""State fields of a recording as series over their stamps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bags.container import Container
from edgevlm.bags.decoding import messages
from edgevlm.bags.topics import StateSource, TopicMap, unit_factor
from edgevlm.contract import StateSpec
from edgevlm.errors import LogError
from edgevlm.rosmsg.selectors import Absent, read_number


@dataclass(frozen=True)
class Series:
    """One state field, in the contract's unit, in the order of log times."""

    log_ns: NDArray[np.int64]  # (M,)
    stamps_ns: NDArray[np.int64]  # (M,)
    values: NDArray[np.float32]  # (M,)


def read_series(container: Container, topics: TopicMap, spec: StateSpec) -> tuple[Series, ...]:
    """One series for each field of the state, in the contract's order.

    Raises:
        LogError: a joint or a path that no message of its topic has.
    """
    collected: dict[str, list[tuple[int, int, float]]] = {field.name: [] for field in spec.fields}
    for topic in dict.fromkeys(source.topic for source in topics.state.values()):
        sources = {name: source for name, source in topics.state.items() if source.topic == topic}
        _collect(container, topic, sources, collected)
    series = []
    for field in spec.fields:
        source = topics.state[field.name]
        factor = unit_factor(source.unit or field.unit, field.unit)
        series.append(_series(container, field.name, collected[field.name], factor))
    return tuple(series)


def _collect(
    container: Container,
    topic: str,
    sources: dict[str, StateSource],
    collected: dict[str, list[tuple[int, int, float]]],
) -> None:
    absent: dict[str, str] = {}
    where = f"{container.path}: topic {topic}"
    for ref, message in messages(container, topic):
        for name, source in sources.items():
            found = read_number(message, source.steps, f"{where}: path {source.place!r}")
            if isinstance(found, Absent):
                absent.setdefault(name, found.reason)
            else:
                stamp_ns = header_ns(found.header) or ref.log_ns
                collected[name].append((ref.log_ns, stamp_ns, found.value))
    if missing := [name for name in sources if not collected[name]]:
        reasons = "; ".join(f"{name!r}: {absent.get(name, 'no message')}" for name in missing)
        raise LogError(
            f"{where} never has {[sources[name].place for name in missing]} for the state's {missing} ({reasons}); "
            "correct the topic map"
        )


def header_ns(header: Any | None) -> int:
    """A header's stamp in nanoseconds; 0 for none, and for one that nobody set."""
    return 0 if header is None else int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def _series(container: Container, name: str, rows: list[tuple[int, int, float]], factor: float) -> Series:
    values = np.array([row[2] for row in rows], np.float64) * factor
    finite = np.isfinite(values)
    if not finite.all():
        left_out = int((~finite).sum())
        container.warnings.append(f"{container.path}: state {name!r}: left out {left_out} NaN or infinite value(s)")
    log_ns = np.array([row[0] for row in rows], np.int64)[finite]
    stamps_ns = np.array([row[1] for row in rows], np.int64)[finite]
    return Series(log_ns, stamps_ns, values[finite].astype(np.float32))
