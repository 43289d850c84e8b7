"""The two clocks of a gate: data time (ROS time), in which rows are due, and steady time, which nobody can set.

On the system's clock limits hold in steady time, whatever data time does: a step, a drift, an adjustment. In simulated
time they hold in data time, which may run faster or slower than steady time; steady time then only shows that it
stopped. See docs/decisions/0015-two-clocks.md.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple

TimeSource = Literal["system", "simulated"]


class Elapsed(NamedTuple):
    """Seconds since the last command, for what they are used for.

    Attributes:
        move_s: what a position moves by its velocity over; steady time on the system's clock.
        change_s: what a velocity may change over freely; braking for a limit may take `move_s`.
    """

    move_s: float
    change_s: float


def even(seconds: float) -> Elapsed:
    """Both clocks agree."""
    return Elapsed(seconds, seconds)


@dataclass(frozen=True, kw_only=True)
class ClockRules:
    """Nanoseconds: the period of commands, how long one is valid, how long a clock may stand, how far it may step back,
    and how old a state may be.
    """

    source: TimeSource
    period_ns: int
    valid_ns: int
    deadline_ns: int
    reset_after_ns: int
    state_age_ns: int


class GateClock:
    """What time it is, how much passed since the last command, and what is wrong with the clock. Reads no clock.

    Attributes:
        now_ns: data time that never goes back but for a restart; None before the first `tick`.
        jumped: data time went another way than steady time since the last command.
        stopped: data time has stood still for longer than the deadline, in steady time.
    """

    def __init__(self, rules: ClockRules) -> None:
        self._rules = rules
        self.now_ns: int | None = None
        self.jumped = self.stopped = False
        self._read_ns: int | None = None  # the last reading of data time, and since when it is that, in steady time
        self._read_steady_ns = 0
        self._commanded: tuple[int, int] | None = None  # data time and steady time of the last command
        self._ahead: deque[tuple[int, int]] = deque()  # (steady time, data time minus steady time) of late

    def tick(self, now_ros_ns: int) -> bool:
        """Note a reading of data time; True when the clock has restarted."""
        restarted = self.now_ns is not None and now_ros_ns < self.now_ns - self._rules.reset_after_ns
        if self.now_ns is None or restarted:
            self.now_ns = now_ros_ns
            self._ahead.clear()
        self.jumped |= restarted
        self.now_ns = max(self.now_ns, now_ros_ns)
        return restarted

    def elapsed(self, now_ros_ns: int, now_steady_ns: int, moving: bool) -> Elapsed | None:
        """Time since the last command; None after a gap that ended its validity: the robot is at rest by then.

        Without values in force (`moving` is false) a robot starts from rest, with one period.
        """
        rules = self._rules
        if now_ros_ns != self._read_ns:
            self._read_ns, self._read_steady_ns = now_ros_ns, now_steady_ns
        self.stopped = now_steady_ns - self._read_steady_ns > rules.deadline_ns
        self.jumped |= self.now_ns is not None and now_ros_ns < self.now_ns
        if self._commanded is None or not moving:
            return even(rules.period_ns / 1e9)
        data_ns, steady_ns = now_ros_ns - self._commanded[0], now_steady_ns - self._commanded[1]
        if rules.source == "simulated":
            return self._simulated(data_ns, steady_ns)
        if steady_ns > rules.valid_ns:
            self.jumped |= data_ns <= rules.valid_ns
            return None
        if steady_ns >= rules.period_ns / 10:
            self.jumped |= not 0 < data_ns <= rules.valid_ns
        return Elapsed(steady_ns / 1e9, (steady_ns if self.jumped else min(steady_ns, max(0, data_ns))) / 1e9)

    def commanded(self, now_ros_ns: int, now_steady_ns: int) -> None:
        """A new command was made at these times."""
        self._commanded = (now_ros_ns, now_steady_ns)
        self.jumped = False
        self._ahead.append((now_steady_ns, now_ros_ns - now_steady_ns))
        while self._ahead[0][0] < now_steady_ns - self._rules.state_age_ns:
            self._ahead.popleft()

    def motion_ns(self, now_ros_ns: int, now_steady_ns: int) -> int:
        """Now, in the time in which a robot moves."""
        return now_ros_ns if self._rules.source == "simulated" else now_steady_ns

    def sensed_ns(self, stamp_ns: int, now_ros_ns: int, now_steady_ns: int) -> int:
        """A state's stamp in the time in which a robot moves.

        Where data time stepped while the state was on its way, it is taken for as old as it can be.
        """
        if self._rules.source == "simulated":
            return stamp_ns
        ahead_ns = max((ahead for _, ahead in self._ahead), default=now_ros_ns - now_steady_ns)
        return min(now_steady_ns, stamp_ns - max(ahead_ns, now_ros_ns - now_steady_ns))

    def _simulated(self, data_ns: int, steady_ns: int) -> Elapsed | None:
        rules = self._rules
        if self.stopped:  # nothing moves in simulated time; velocities in force are braked by steady time
            return Elapsed(0.0, min(steady_ns, rules.period_ns) / 1e9)
        if data_ns <= rules.valid_ns and not self.jumped:
            return even(data_ns / 1e9)
        if steady_ns > rules.valid_ns:
            return None
        self.jumped = True
        return even(steady_ns / 1e9)
