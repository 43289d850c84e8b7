"""The state put together from the messages of one or more topics, as they come: live, or in a recording's order."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.contract import Stamped, StateSpec
from edgevlm.rosmsg.conventions import check_carried, convention
from edgevlm.rosmsg.selectors import Absent, read_number
from edgevlm.rosmsg.topic_map import StateSource, TopicMap

Stamps = Literal["header", "log"]  # whose stamps count: of a message itself, or of its record


def header_ns(header: Any | None) -> int:
    """A header's stamp in nanoseconds; 0 for none, and for one that nobody set."""
    return 0 if header is None else int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


class StateAssembler:
    """The state in the contract's order and units, from the messages of one or more topics.

    Each field keeps the value that came last. The whole is stamped with the oldest of its fields' stamps, so it never
    claims to be newer than a part of it. With two topics that carry the same stamp t, the first message gives a vector
    stamped as before, only the second one gives t; whoever takes states by stamp drops the first.

    Args:
        where: begins the message of what is raised.
        stamps: `log` takes the stamp that comes with a message, also where an element of it has a header of its own.
    """

    def __init__(self, spec: StateSpec, topics: TopicMap, where: str = "live", stamps: Stamps = "header") -> None:
        self._where, self._stamps = where, stamps
        self._sources: dict[str, list[tuple[int, StateSource, float]]] = {}  # topic -> (index, source, factor)
        for i, field in enumerate(spec.fields):
            source = topics.state[field.name]
            self._sources.setdefault(source.topic, []).append((i, source, source.factor(field.unit)))
        self._names, self._units = spec.names, tuple(field.unit for field in spec.fields)
        self._new = set(self._sources)  # topics of which no message was compared with the convention
        self.reset()

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics to subscribe to, each once."""
        return tuple(self._sources)

    @property
    def missing(self) -> tuple[str, ...]:
        """Fields that no message has had yet."""
        return tuple(name for name, stamp_ns in zip(self._names, self._stamps_ns, strict=True) if stamp_ns is None)

    @property
    def reasons(self) -> dict[str, str]:
        """Why each missing field is missing, as far as a message told."""
        return {name: self._absent[name] for name in self.missing if name in self._absent}

    def reset(self) -> None:
        """Forget every field."""
        self._absent: dict[str, str] = {}
        self._values = np.zeros(len(self._names), np.float64)
        self._stamps_ns: list[int | None] = [None] * len(self._names)

    def feed(self, topic: str, message: Any, stamp_ns: int) -> Stamped[NDArray[np.float32]] | None:
        """Take a message; the whole state, float32 (S,), once each field has been seen. NaN is passed on.

        Raises:
            LogError: the message has not the path that the topic map names, an index into something with names, or by
                convention another unit.
        """
        if topic in self._new:
            for i, source, _ in self._sources[topic]:
                where = f"{self._where}: topic {topic}: path {source.place!r}"
                check_carried(convention(message, source.steps), self._units[i], source.unit, where)
            self._new.discard(topic)
        changed = False
        for i, source, factor in self._sources[topic]:
            reading = read_number(message, source.steps, f"{self._where}: topic {topic}: path {source.place!r}")
            if isinstance(reading, Absent):
                self._absent[self._names[i]] = reading.reason
                continue
            inner = self._stamps == "header" and reading.header is not getattr(message, "header", None)
            own_ns = header_ns(reading.header) if inner else 0  # of one element of an array
            self._values[i], self._stamps_ns[i] = reading.value * factor, own_ns or stamp_ns
            changed = True
        known_ns = [known for known in self._stamps_ns if known is not None]
        if not changed or len(known_ns) < len(self._stamps_ns):
            return None
        with np.errstate(over="ignore"):  # beyond float32 becomes infinity, which is refused downstream
            return Stamped(self._values.astype(np.float32), min(known_ns))
