"""Ends engine runs that take longer than they may, by a means of the engine's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_LOOK_EVERY_S = 0.25


_Limit = tuple[float, Callable[[], None]]  # steady time to end at, how to end it


class _Run:
    """A block under a limit: a class, because a generator would cost every run a microsecond more."""

    __slots__ = ("_runs",)

    def __init__(self, runs: dict[object, _Limit], limit: _Limit) -> None:
        self._runs = runs
        runs[self] = limit

    def __enter__(self) -> None:
        """It has begun."""

    def __exit__(self, *error: object) -> None:
        del self._runs[self]


class RunLimits:
    """One thread for the whole process that looks at the runs under way; it ends when none has begun for a while.

    A run costs two changes of a dictionary here, no lock that another run waits for.
    """

    def __init__(self, idle_s: float = 10.0) -> None:
        self._runs: dict[object, _Limit] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._idle_s = idle_s

    def limit(self, seconds: float, end: Callable[[], None]) -> _Run:
        """A block, to enter at once: another thread calls `end`, again and again, once it has taken `seconds`."""
        run = _Run(self._runs, (time.monotonic() + seconds, end))
        if self._thread is None:  # looked at after the run is there: see `_goes`
            self._start()
        return run

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="edgevlm-run-limits", daemon=True)
                self._thread.start()

    def _look(self) -> None:
        quiet_since = time.monotonic()
        while True:
            time.sleep(_LOOK_EVERY_S)
            now = time.monotonic()
            runs = list(self._runs.values())
            for until, end in runs:
                if now > until:
                    end()
            if runs:
                quiet_since = now
            elif now - quiet_since > self._idle_s and self._goes():
                return

    def _goes(self) -> bool:
        """Whether the thread may end: a run that began in the meantime either sees that or is seen."""
        with self._lock:
            self._thread = None
            if not self._runs:
                return True
            self._thread = threading.current_thread()
            return False


RUN_LIMITS = RunLimits()
