"""State fields of a recording as series over their stamps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.data.arrival import Arrival
from edgevlm.data.container import Container
from edgevlm.data.decoding import messages
from edgevlm.manifest.contract import StateSpec
from edgevlm.rosmsg.conventions import check_carried, convention
from edgevlm.rosmsg.selectors import Absent, read_number
from edgevlm.rosmsg.state import Stamps, header_ns
from edgevlm.rosmsg.topic_facts import TopicFacts, uneven
from edgevlm.rosmsg.topic_map import TopicMap
from edgevlm.rosmsg.type_names import JOINT_STATE


@dataclass(frozen=True)
class Series:
    """One state field, in the contract's unit, in the order of log times."""

    log_ns: NDArray[np.int64]  # (M,)
    stamps_ns: NDArray[np.int64]  # (M,)
    values: NDArray[np.float32]  # (M,)


@dataclass(frozen=True)
class States:
    """The fields of a state, in the contract's order; each `missing` one has the reason; topic -> arrival of stamps."""

    series: tuple[Series, ...]
    missing: Mapping[str, str]
    arrivals: Mapping[str, Arrival]


def read_states(
    container: Container, topics: TopicMap, spec: StateSpec, facts: Mapping[str, TopicFacts], stamps: Stamps
) -> States:
    """Every number of the state. `facts` of its topics are filled.

    Raises:
        LogError: a path that its messages do not have.
    """
    rows: dict[str, list[tuple[int, int, float]]] = {field.name: [] for field in spec.fields}
    missing: dict[str, str] = {}
    arrivals: dict[str, Arrival] = {}
    for topic in dict.fromkeys(source.topic for source in topics.state.values()):
        _check_units(container, topics, topic, spec)
        pairs = _collect(container, topics, facts[topic], rows, missing, stamps)
        if len(pairs):
            arrivals[topic] = Arrival(pairs[:, 0], pairs[:, 1])
    series = []
    for field in spec.fields:
        factor = topics.state[field.name].factor(field.unit)
        series.append(_series(container, field.name, rows[field.name], factor))
    return States(tuple(series), {name: missing[name] for name in rows if not rows[name]}, arrivals)


def _check_units(container: Container, topics: TopicMap, topic: str, spec: StateSpec) -> None:
    """Whether the topic's first message has what the contract's fields are, by convention. Raises LogError."""
    _, message = next(messages(container, topic), (None, None))
    for field in spec.fields:
        source = topics.state[field.name]
        if message is not None and source.topic == topic:
            where = f"{container.path}: topic {topic}: path {source.place!r}"
            check_carried(convention(message, source.steps), field.unit, source.unit, where)


def _collect(
    container: Container,
    topics: TopicMap,
    facts: TopicFacts,
    rows: dict[str, list[tuple[int, int, float]]],
    missing: dict[str, str],
    stamps: Stamps,
) -> NDArray[np.int64]:
    """Read one topic; the log times and stamps of its messages: (M, 2)."""
    sources = {name: source for name, source in topics.state.items() if source.topic == facts.name}
    joints = facts.types == (JOINT_STATE,)
    missing.update(dict.fromkeys(sources, ""))
    pairs: list[tuple[int, int]] = []
    headers: list[int] = []
    where = f"{container.path}: topic {facts.name}"
    for ref, message in messages(container, facts.name):
        facts.messages += 1
        if joints:
            facts.joints.update(message.name)
            facts.uneven = facts.uneven or uneven(message)
        stamped_ns = []
        for name, source in sources.items():
            found = read_number(message, source.steps, f"{where}: path {source.place!r}")
            if isinstance(found, Absent):
                missing[name] = missing[name] or found.reason
                continue
            if found.header is not None:
                facts.frame_ids.add(found.header.frame_id)
            stamp_ns = header_ns(found.header) if stamps == "header" else ref.log_ns
            stamped_ns.append(stamp_ns)
            rows[name].append((ref.log_ns, stamp_ns or ref.log_ns, found.value))
        if stamped_ns:
            pairs.append((ref.log_ns, min(stamped_ns) or ref.log_ns))
            headers += [min(stamped_ns)] if min(stamped_ns) else []
    facts.stamps_ns = np.array(headers, np.int64)
    return np.array(pairs, np.int64).reshape(-1, 2)


def _series(container: Container, name: str, rows: list[tuple[int, int, float]], factor: float) -> Series:
    with np.errstate(over="ignore"):  # beyond float32 is as good as infinite
        values = (np.array([row[2] for row in rows], np.float64) * factor).astype(np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        left_out = int((~finite).sum())
        container.warnings.append(f"{container.path}: state {name!r}: left out {left_out} NaN or infinite value(s)")
    log_ns = np.array([row[0] for row in rows], np.int64)[finite]
    stamps_ns = np.array([row[1] for row in rows], np.int64)[finite]
    return Series(log_ns, stamps_ns, values[finite])
