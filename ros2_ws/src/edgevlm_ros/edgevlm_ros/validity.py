"""How long a command may be used, by its own stamp: for a relay beside controllers that do not ask. No ROS in here."""

from __future__ import annotations

from typing import Literal

from edgevlm.manifest.contract import SECOND_NS

Reason = Literal["late", "old", "future", "stopped"]


class Validity:
    """Of the commands of one topic: which are taken, and whether the newest may still be used.

    A stamp is of data time. What remains of its validity when it comes is counted in steady time, so that a clock that
    stops, or is set, does not keep a command alive.
    """

    def __init__(self, valid_s: float, future_s: float) -> None:
        self._valid_ns, self._future_ns = round(valid_s * SECOND_NS), round(future_s * SECOND_NS)
        self._newest_ns: int | None = None
        self._until_steady_ns: int | None = None
        self._stopped = False

    def take(self, stamp_ns: int, now_ns: int, now_steady_ns: int) -> Reason | None:
        """Why a command is not to be passed on; None: pass it on."""
        if self._stopped:
            return "stopped"
        remaining_ns = stamp_ns + self._valid_ns - now_ns
        if remaining_ns <= 0:
            return "late"
        if stamp_ns > now_ns + self._future_ns:
            return "future"
        # After silence an older stamp is a clock that began anew; before, it was overtaken.
        if self.in_force(now_steady_ns) and self._newest_ns is not None and stamp_ns < self._newest_ns:
            return "old"
        self._newest_ns = stamp_ns
        self._until_steady_ns = now_steady_ns + min(remaining_ns, self._valid_ns)
        return None

    def stop(self, up: bool) -> None:
        """The stop signal: while it is up nothing is in force, and nothing is taken."""
        self._stopped = up
        if up and self._until_steady_ns is not None:
            self._until_steady_ns = 0

    @property
    def begun(self) -> bool:
        """Whether any command was ever taken."""
        return self._until_steady_ns is not None

    def in_force(self, now_steady_ns: int) -> bool:
        """Whether the newest command may still be used."""
        return self._until_steady_ns is not None and now_steady_ns < self._until_steady_ns
