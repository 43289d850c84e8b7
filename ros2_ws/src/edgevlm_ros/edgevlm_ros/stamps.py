"""ROS stamps and durations as whole nanoseconds, and back."""

from __future__ import annotations

from builtin_interfaces.msg import Duration, Time

from edgevlm.manifest.contract import SECOND_NS


def to_ns(time: Time | Duration) -> int:
    """Nanoseconds of a stamp or duration."""
    return int(time.sec) * SECOND_NS + int(time.nanosec)


def to_time(stamp_ns: int) -> Time:
    """A stamp from nanoseconds; before 0 there are none, so those become 0."""
    sec, nanosec = seconds(stamp_ns)
    return Time(sec=sec, nanosec=nanosec)


def seconds(stamp_ns: int) -> tuple[int, int]:
    """Seconds and nanoseconds of a stamp, as `to_time` has them."""
    return divmod(max(0, int(stamp_ns)), SECOND_NS)


def to_duration(duration_ns: int) -> Duration:
    """A duration from nanoseconds."""
    sec, nanosec = divmod(int(duration_ns), SECOND_NS)
    return Duration(sec=sec, nanosec=nanosec)
