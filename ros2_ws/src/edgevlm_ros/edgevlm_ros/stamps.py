"""ROS stamps and durations as whole nanoseconds, and back."""

from __future__ import annotations

from builtin_interfaces.msg import Duration, Time

from edgevlm.contract import SECOND_NS


def to_ns(time: Time | Duration) -> int:
    """Nanoseconds of a stamp or duration."""
    return int(time.sec) * SECOND_NS + int(time.nanosec)


def to_time(stamp_ns: int) -> Time:
    """A stamp from nanoseconds; before 0 there are none, so those become 0."""
    sec, nanosec = divmod(max(0, int(stamp_ns)), SECOND_NS)
    return Time(sec=sec, nanosec=nanosec)


def set_time(time: Time, stamp_ns: int) -> None:
    """Make an existing stamp this one, which costs less than a new one; as `to_time`."""
    time.sec, time.nanosec = divmod(max(0, int(stamp_ns)), SECOND_NS)


def to_duration(duration_ns: int) -> Duration:
    """A duration from nanoseconds."""
    sec, nanosec = divmod(int(duration_ns), SECOND_NS)
    return Duration(sec=sec, nanosec=nanosec)
