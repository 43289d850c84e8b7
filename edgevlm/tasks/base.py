"""What models share that keep no dialogue: calls take turns, each is timed, and a closed model says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType, TracebackType
from typing import TypeVar

from edgevlm.bundle import Bundle
from edgevlm.errors import SessionError
from edgevlm.graph import Clock, Graph, Memory
from edgevlm.options import RuntimeOptions

Self = TypeVar("Self", bound="ModelBase")


class ModelBase:
    """Threads may share one and take turns.

    Attributes:
        last_times_ns: of the last call: "step", "preprocess" and the engine time of each stage that ran.
    """

    def __init__(self, bundle: Bundle, options: RuntimeOptions, clock: Clock, graph: Graph, memory: Memory) -> None:
        self.bundle, self.options, self.clock = bundle, options, clock
        self._graph, self._memory = graph, memory
        self._lock = threading.Lock()
        self._closed = False
        self.last_times_ns: dict[str, int] = {}

    @property
    def stage_runs(self) -> MappingProxyType[str, int]:
        """Stage -> engine runs since the bundle was loaded."""
        return MappingProxyType(self._memory.runs)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """One call's turn. Raises SessionError after `close`."""
        with self._lock:
            if self._closed:
                raise SessionError(
                    f"{self.bundle.manifest.task}: expected an open one, it was closed; load the bundle again"
                )
            started = self.clock()
            self._memory.begin_step()
            yield
            self.last_times_ns = {**self._memory.times_ns, "step": self.clock() - started}

    def close(self) -> None:
        """Free the engines; every later call raises SessionError."""
        with self._lock:
            self._closed = True
            self._graph.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
