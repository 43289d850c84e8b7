"""Two clocks: data time (ROS time, every stamp), which may restart, stop or be stepped, and steady time, which may not.

The rule, for whoever reads a clock or compares stamps. No clock is read here: both times enter as arguments.

* Restart: data time that lies back by more than `reset_after` is a clock that began anew. What was received is
  forgotten; what was commanded is not, so that limits hold across it.
* Late: data time that lies back by less is out of order. A reading counts as the newest one; a stamp is refused.
* Stop: a reading that stays the same for longer than the deadline, in steady time. The robot is braked.
* Step: data time that went another way than steady time since the last command. On the system's clock limits hold in
  steady time, whatever data time does: a step, a drift, an adjustment. In simulated time they hold in data time, which
  may run faster or slower than steady time; steady time then only shows that it stopped.

See docs/decisions/0015-limits-in-time-and-space.md.
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


def restarted(stamp_ns: int, newest_ns: int | None, reset_after_ns: int) -> bool:
    """Whether data time that was `newest_ns` and is `stamp_ns` began anew."""
    return newest_ns is not None and stamp_ns < newest_ns - reset_after_ns


class DataClock:
    """Data time that never goes back but for a restart.

    Attributes:
        now_ns: the newest reading since the clock began; None before the first `read`.
    """

    def __init__(self, reset_after_ns: int) -> None:
        self._reset_after_ns = reset_after_ns
        self.now_ns: int | None = None

    def read(self, reading_ns: int) -> bool:
        """Note a reading; True when the clock has restarted."""
        anew = restarted(reading_ns, self.now_ns, self._reset_after_ns)
        self.now_ns = reading_ns if anew or self.now_ns is None else max(self.now_ns, reading_ns)
        return anew


class ControlClock(DataClock):
    """What time it is, how much passed since the last command, and what is wrong with the clock.

    Attributes:
        jumped: data time went another way than steady time since the last command.
        stopped: data time has stood still for longer than the deadline, in steady time.
    """

    def __init__(self, rules: ClockRules) -> None:
        super().__init__(rules.reset_after_ns)
        self._rules = rules
        self.jumped = self.stopped = False
        self._read_ns: int | None = None  # the last reading of data time, and since when it is that, in steady time
        self._read_steady_ns = 0
        self._commanded: tuple[int, int] | None = None  # data time and steady time of the last command
        self._ahead: deque[tuple[int, int]] = deque()  # (steady time, data time minus steady time) of late

    def read(self, reading_ns: int) -> bool:
        """See `DataClock`."""
        anew = super().read(reading_ns)
        if anew:
            self._ahead.clear()
        self.jumped |= anew
        return anew

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
