"""Who has not been heard of for too long: deadlines in steady time, and a row of figures for each source. No clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edgevlm.errors import ContractError
from edgevlm.manifest.contract import SECOND_NS, Duration, Spec

Health = Literal["waiting", "ok", "missing", "latched"]

_BEATS_KEPT = 64


class Deadline(Spec):
    """How long a source may be silent; a latched one stays a fault until `Watchdog.rearm`."""

    name: str
    timeout_s: Duration
    latched: bool = False


@dataclass(frozen=True)
class Event:
    """A source went missing, or is back, noticed at this time."""

    name: str
    kind: Literal["missing", "back"]
    noticed_steady_ns: int
    silent_ns: int


@dataclass(frozen=True)
class Row:
    """One source for diagnostics.

    Attributes:
        health: "waiting" until the first beat or the first deadline; "latched": heard again, but not re-armed.
        rate_hz: over the last beats; 0 while it is missing.
        silent_s: since the last beat, or since `start`.
        age_ms: of the newest value when it came, by its own stamp.
        missing: how often it went missing.
    """

    name: str
    health: Health
    rate_hz: float
    silent_s: float
    age_ms: float | None
    beats: int
    drops: int
    missing: int


class _Source:
    def __init__(self, deadline: Deadline, now_ns: int) -> None:
        self.deadline = deadline
        self.timeout_ns = round(deadline.timeout_s * SECOND_NS)
        self.beats_ns: deque[int] = deque(maxlen=_BEATS_KEPT)
        self.last_ns = now_ns
        self.health: Health = "waiting"
        self.age_ns: int | None = None
        self.beats = self.drops = self.missing = 0

    def check(self, now_ns: int) -> Event | None:
        silent_ns = now_ns - self.last_ns
        if silent_ns > self.timeout_ns and self.health != "missing":
            self.health = "missing"
            self.missing += 1
            self.beats_ns.clear()
            return Event(self.deadline.name, "missing", now_ns, silent_ns)
        if silent_ns <= self.timeout_ns and self.health == "missing":
            self.health = "latched" if self.deadline.latched else "ok"
            return Event(self.deadline.name, "back", now_ns, silent_ns)
        return None

    def row(self, now_ns: int) -> Row:
        span_ns = self.beats_ns[-1] - self.beats_ns[0] if len(self.beats_ns) > 1 else 0
        rate_hz = (len(self.beats_ns) - 1) * SECOND_NS / span_ns if span_ns and self.health != "missing" else 0.0
        return Row(
            name=self.deadline.name,
            health=self.health,
            rate_hz=rate_hz,
            silent_s=(now_ns - self.last_ns) / SECOND_NS,
            age_ms=None if self.age_ns is None else self.age_ns / 1e6,
            beats=self.beats,
            drops=self.drops,
            missing=self.missing,
        )


class Watchdog:
    """Call `beat` for what comes, `check` regularly. Not thread-safe.

    Raises:
        ContractError: two deadlines of one name; from the verbs: a name that is not watched.
    """

    def __init__(self, deadlines: Iterable[Deadline], now_steady_ns: int) -> None:
        self._deadlines = tuple(deadlines)
        names = [deadline.name for deadline in self._deadlines]
        if len(set(names)) != len(names):
            raise ContractError(f"watchdog: expected distinct names, got {names}")
        self.start(now_steady_ns)

    def start(self, now_steady_ns: int) -> None:
        """Begin anew: every deadline counts from now, all figures from 0."""
        self._noticed: list[Event] = []
        self._sources = {deadline.name: _Source(deadline, now_steady_ns) for deadline in self._deadlines}

    def beat(self, name: str, now_steady_ns: int, age_ns: int | None = None) -> None:
        """A sign of life; `age_ns` is the clock minus the value's own stamp."""
        source = self._source(name)
        if event := source.check(now_steady_ns):  # nobody checked while it was silent
            self._noticed.append(event)
        source.beats += 1
        source.beats_ns.append(now_steady_ns)
        source.last_ns = now_steady_ns
        source.age_ns = age_ns
        if source.health == "waiting":
            source.health = "ok"

    def drop(self, name: str, count: int = 1) -> None:
        """Values of this source were dropped; they are no sign of life."""
        self._source(name).drops += count

    def check(self, now_steady_ns: int) -> tuple[Event, ...]:
        """What has changed since the last check."""
        events = [*self._noticed, *(source.check(now_steady_ns) for source in self._sources.values())]
        self._noticed = []
        return tuple(event for event in events if event is not None)

    def rearm(self) -> None:
        """End latched faults of sources that are heard again."""
        for source in self._sources.values():
            if source.health == "latched":
                source.health = "ok"

    @property
    def faults(self) -> tuple[str, ...]:
        """Names that are missing or latched, as of the last check."""
        return tuple(name for name, source in self._sources.items() if source.health in ("missing", "latched"))

    def rows(self, now_steady_ns: int) -> tuple[Row, ...]:
        """A row for each source, in the order of the deadlines."""
        return tuple(source.row(now_steady_ns) for source in self._sources.values())

    def _source(self, name: str) -> _Source:
        if name not in self._sources:
            raise ContractError(f"watchdog: no source {name!r}, watched are {list(self._sources)}")
        return self._sources[name]
