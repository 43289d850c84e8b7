"""Which command the simulated robot executes in which step, and when steps are. No ROS, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.contract import SECOND_NS

Mode = Literal["real_time", "scaled", "lock_step"]
MODES: tuple[Mode, ...] = ("real_time", "scaled", "lock_step")
Verdict = Literal["taken", "idle", "not_finite", "before_reset", "expired", "future", "late"]


class Commands:
    """The newest velocity and gripper command. Nothing is taken before the first `begin`. Not thread-safe.

    Attributes:
        counts: "<twist or gripper>.<verdict>"; whatever was not taken was dropped.
    """

    def __init__(self, step_s: float, valid_s: float) -> None:
        self._step_s, self._valid_ns = step_s, round(valid_s * SECOND_NS)
        self._begin_ns: int | None = None
        self._twist: tuple[int, NDArray[np.float32]] | None = None
        self._gripper: tuple[int, NDArray[np.float32]] | None = None
        self.counts: Counter[str] = Counter()

    @property
    def dropped(self) -> int:
        """How many were not taken, since the last `begin`."""
        return sum(count for key, count in self.counts.items() if not key.endswith(".taken"))

    def begin(self, stamp_ns: int) -> None:
        """An episode begins: earlier commands, and whatever is stamped before this, count no more."""
        self._begin_ns = stamp_ns
        self._twist = self._gripper = None
        self.counts.clear()

    def end(self) -> None:
        """The episode is over: no commands are taken until the next one begins."""
        self._begin_ns = self._twist = self._gripper = None

    def twist(self, velocity: Sequence[float], stamp_ns: int, now_ns: int) -> Verdict:
        """Take a velocity x, y, z in m/s."""
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 becomes infinity, which is refused
            delta = np.array([np.float32(v * self._step_s) for v in velocity], np.float32)
        newest_ns = self._twist[0] if self._twist else None
        verdict = self._judge(delta, stamp_ns, now_ns, newest_ns)
        if verdict == "taken":
            self._twist = (stamp_ns, delta)
        self.counts[f"twist.{verdict}"] += 1
        return verdict

    def gripper(self, position: Sequence[float], stamp_ns: int, now_ns: int) -> Verdict:
        """Take the gripper's command, one number in [-1, 1]."""
        with np.errstate(over="ignore"):
            value = np.asarray(position, np.float64).astype(np.float32)
        newest_ns = self._gripper[0] if self._gripper else None
        verdict = self._judge(value, stamp_ns, now_ns, newest_ns) if value.shape == (1,) else "not_finite"
        if verdict == "taken":
            self._gripper = (stamp_ns, value)
        self.counts[f"gripper.{verdict}"] += 1
        return verdict

    def due(self, now_ns: int) -> NDArray[np.float32] | None:
        """The action (4,) in force now; None when a command is missing or was sent longer ago than it is valid."""
        if self._twist is None or self._gripper is None:
            return None
        oldest_ns = min(self._twist[0], self._gripper[0])
        return self._action() if now_ns - oldest_ns <= self._valid_ns else None

    def at(self, stamp_ns: int) -> NDArray[np.float32] | None:
        """The action (4,) whose two parts are stamped exactly so; None while one of them is missing."""
        if self._twist is None or self._gripper is None or {self._twist[0], self._gripper[0]} != {stamp_ns}:
            return None
        return self._action()

    def _action(self) -> NDArray[np.float32]:
        assert self._twist is not None and self._gripper is not None
        return np.concatenate([self._twist[1], self._gripper[1]])

    def _judge(self, values: NDArray[np.float32], stamp_ns: int, now_ns: int, newest_ns: int | None) -> Verdict:
        if self._begin_ns is None:
            return "idle"
        if not np.isfinite(values).all():
            return "not_finite"
        if stamp_ns < self._begin_ns:
            return "before_reset"
        if now_ns - stamp_ns > self._valid_ns:
            return "expired"
        if stamp_ns - now_ns > self._valid_ns:
            return "future"
        return "late" if newest_ns is not None and stamp_ns < newest_ns else "taken"


class DataTime:
    """The stamps of what the robot measures: ROS time in real time, otherwise counted here and published as /clock."""

    def __init__(self, mode: Mode, start_ns: int) -> None:
        self.counted = mode != "real_time"
        self._own_ns = start_ns

    def now_ns(self, ros_ns: int) -> int:
        """Data time now, given ROS time."""
        return self._own_ns if self.counted else ros_ns

    def go_on(self, duration_ns: int) -> None:
        """A step, or the gap between two episodes, has passed."""
        self._own_ns += duration_ns


class Ticker:
    """Deadlines one period apart, in steady time. After a long delay they start anew, without a burst."""

    def __init__(self, period_ns: int, now_ns: int) -> None:
        self._period_ns, self._next_ns = period_ns, now_ns
        self.overruns = 0

    def following(self, now_ns: int) -> int:
        """The next deadline."""
        self._next_ns += self._period_ns
        if now_ns > self._next_ns + self._period_ns:
            self.overruns += 1
            self._next_ns = now_ns
        return self._next_ns
