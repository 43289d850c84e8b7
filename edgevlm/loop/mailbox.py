"""One place for the newest value between threads: a new one replaces the old one, and what was replaced is counted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Monitor(Protocol):
    """A lock with a place to wait; `threading.Condition` is one. Its clock decides when a wait times out."""

    def __enter__(self) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool: ...

    def notify_all(self) -> None: ...


class Mailbox(Generic[T]):
    """The newest value wins. Any thread may call any verb.

    Args:
        merge: makes one value of (replaced, new), for values that carry what must not be lost; without it the
            replaced value is gone.
        monitor: where takers wait.

    Attributes:
        puts, drops: values that were put in, and those of them that nobody took.
    """

    def __init__(self, merge: Callable[[T, T], T] | None = None, monitor: Monitor | None = None) -> None:
        self._merge = merge
        self._monitor: Monitor = threading.Condition() if monitor is None else monitor
        self._slot: list[T] = []  # empty, or the one value: None is a value too
        self._closed = False
        self.puts = 0
        self.drops = 0

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def put(self, value: T) -> bool:
        """Leave a value; never waits. True when it replaced one. After `close` it is dropped and counted."""
        with self._monitor:
            self.puts += 1
            if self._closed:
                self.drops += 1
                return False
            replaced = bool(self._slot)
            if replaced:
                self.drops += 1
                if self._merge is not None:
                    value = self._merge(self._slot[0], value)
            self._slot[:] = [value]
            self._monitor.notify_all()
            return replaced

    def take(self, timeout_s: float | None = None) -> T | None:
        """The value, once; None after `timeout_s` without one, or when closed. 0 does not wait, None waits on."""
        with self._monitor:
            self._monitor.wait_for(lambda: bool(self._slot) or self._closed, timeout_s)
            return self._slot.pop() if self._slot and not self._closed else None

    def close(self) -> None:
        """Wake all takers; a value that nobody took counts as dropped. Closing twice is harmless."""
        with self._monitor:
            self._closed = True
            self.drops += len(self._slot)
            self._slot.clear()
            self._monitor.notify_all()
