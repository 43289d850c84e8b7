"""Calls a function at a steady rate from a thread of its own.

rclpy's executor builds a list of everything it waits for at every wake-up. At 40 wake-ups a second that alone takes a
twentieth of a core, and it makes the period as uneven as the callbacks before it are long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class PeriodicThread:
    """One thread from `start` to `stop`. Periods that were missed are left out, not made up for.

    Args:
        call: must not raise.
    """

    def __init__(self, period_s: float, call: Callable[[], None]) -> None:
        self._period_ns, self._call = round(period_s * 1e9), call
        self._running = threading.Lock()  # held from outside: to wait for it costs much less than for an Event
        self._running.acquire()
        self._thread = threading.Thread(target=self._run, name="edgevlm-periodic", daemon=True)

    def start(self) -> None:
        """Begin; the first call comes at once."""
        self._thread.start()

    def stop(self) -> None:
        """End after the call under way."""
        self._running.release()
        self._thread.join()

    def _run(self) -> None:
        next_ns = time.monotonic_ns()
        wait_s = 0.0
        while not self._running.acquire(timeout=wait_s):
            self._call()
            now_ns = time.monotonic_ns()
            next_ns += self._period_ns * max(1, -(-(now_ns - next_ns) // self._period_ns))
            wait_s = max(0, next_ns - now_ns) / 1e9
