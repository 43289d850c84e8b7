"""Calls a function at a steady rate from a thread of its own.

rclpy's executor builds a list of everything it waits for at every wake-up. At 40 wake-ups a second that alone takes a
twentieth of a core, and it makes the period as uneven as the callbacks before it are long.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

_SWITCH_S = 0.0005  # another Python thread gives way after this, instead of after 5 ms


class Pacer:
    """One thread from `start` to `stop`. Periods that were missed are left out, not made up for.

    Args:
        call: must not raise.
        priority: of SCHED_FIFO; 0 for an ordinary thread.
        warn: is told, from the thread, when the priority is not permitted.
    """

    def __init__(self, period_s: float, call: Callable[[], None], priority: int, warn: Callable[[str], None]) -> None:
        self._period_ns, self._call = round(period_s * 1e9), call
        self._priority, self._warn = priority, warn
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgevlm-pacer", daemon=True)

    def start(self) -> None:
        """Begin; the first call comes at once."""
        sys.setswitchinterval(_SWITCH_S)
        self._thread.start()

    def stop(self) -> None:
        """End after the call under way."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        if self._priority:
            try:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(self._priority))  # 0: this thread
            except PermissionError:
                self._warn(
                    f"realtime_priority {self._priority}: not permitted; "
                    "give the user an rtprio limit of as much, or set it to 0"
                )
        next_ns = time.monotonic_ns()
        while not self._ending.is_set():
            self._call()
            now_ns = time.monotonic_ns()
            next_ns += self._period_ns * max(1, -(-(now_ns - next_ns) // self._period_ns))
            self._ending.wait(max(0, next_ns - now_ns) / 1e9)
