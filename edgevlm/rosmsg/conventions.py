"""The units that messages of ROS carry by convention: REP 103, and the comments in the message definitions.

A message that has no convention of its own (std_msgs/Float64) is taken to carry SI, as REP 103 asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgevlm.errors import LogError
from edgevlm.rosmsg.selectors import Step, is_array
from edgevlm.units import axis_unit, rate_order, same_kind, unit_factor, wire_unit

_POSITIONS, _VELOCITIES = ("rad", "m", "1"), ("rad/s", "m/s", "1/s")
_ACCELERATIONS, _EFFORTS = ("rad/s^2", "m/s^2", "1/s^2"), ("Nm", "N", "1")
_RATIO, _LENGTH, _ANGLE = ("1",), ("m",), ("rad",)

# (type without its package, field) -> units; of two on a path the inner one counts.
CONVENTIONS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("JointState", "position"): _POSITIONS,
    ("JointState", "velocity"): _VELOCITIES,
    ("JointState", "effort"): _EFFORTS,
    ("JointTrajectoryPoint", "positions"): _POSITIONS,
    ("JointTrajectoryPoint", "velocities"): _VELOCITIES,
    ("JointTrajectoryPoint", "accelerations"): _ACCELERATIONS,
    ("JointTrajectoryPoint", "effort"): _EFFORTS,
    ("Point", "x"): _LENGTH,
    ("Point", "y"): _LENGTH,
    ("Point", "z"): _LENGTH,
    ("PointStamped", "point"): _LENGTH,
    ("Quaternion", "x"): _RATIO,
    ("Quaternion", "y"): _RATIO,
    ("Quaternion", "z"): _RATIO,
    ("Quaternion", "w"): _RATIO,
    ("Pose", "position"): _LENGTH,
    ("Pose", "orientation"): _RATIO,
    ("Transform", "translation"): _LENGTH,
    ("Transform", "rotation"): _RATIO,
    ("Pose2D", "x"): _LENGTH,
    ("Pose2D", "y"): _LENGTH,
    ("Pose2D", "theta"): _ANGLE,
    ("Twist", "linear"): ("m/s",),
    ("Twist", "angular"): ("rad/s",),
    ("Accel", "linear"): ("m/s^2",),
    ("Accel", "angular"): ("rad/s^2",),
    ("Wrench", "force"): ("N",),
    ("Wrench", "torque"): ("Nm",),
    ("Imu", "orientation"): _RATIO,
    ("Imu", "angular_velocity"): ("rad/s",),
    ("Imu", "linear_acceleration"): ("m/s^2",),
    ("Range", "range"): _LENGTH,
    ("Range", "min_range"): _LENGTH,
    ("Range", "max_range"): _LENGTH,
    ("Range", "field_of_view"): _ANGLE,
    ("LaserScan", "ranges"): _LENGTH,
    ("LaserScan", "angle_min"): _ANGLE,
    ("LaserScan", "angle_max"): _ANGLE,
    ("BatteryState", "voltage"): ("V",),
    ("BatteryState", "current"): ("A",),
    ("BatteryState", "percentage"): _RATIO,
    ("BatteryState", "temperature"): ("degC",),
    ("Temperature", "temperature"): ("degC",),
    ("FluidPressure", "fluid_pressure"): ("Pa",),
    ("RelativeHumidity", "relative_humidity"): _RATIO,
}


def check_unit(field: str, unit: str, wire: str, place: str) -> None:
    """Whether a topic map's source can be the field of a contract, whatever type its message has.

    Args:
        unit: of the contract.
        wire: what the map says; "" where it says nothing.
        place: the joint or the path.

    Raises:
        LogError: the two do not measure the same thing; or the contract's unit is none that messages carry, and the map
            does not say what this one carries.
    """
    if wire:
        try:
            unit_factor(wire, unit)
        except ValueError:
            raise LogError(
                f"topic map, state {field!r}: cannot turn {wire!r} into the contract's {unit!r}; give the unit that "
                f"the message really has at {place!r}, or another topic"
            ) from None
    elif wire_unit(unit) != unit:
        raise LogError(
            f"topic map, state {field!r}: the contract's unit is {unit!r}, messages carry {wire_unit(unit)!r} by "
            f"convention; write `unit: {wire_unit(unit)}` where {place!r} does so, and it is converted, or "
            f"`unit: {unit}` where its driver sends that"
        )


def check_carried(carried: Sequence[str], unit: str, wire: str, where: str) -> None:
    """Whether a place that carries these units by convention has what the contract's field is.

    A number without a unit ("1") may come from anywhere: nothing could be compared.

    Args:
        carried: see `convention`.
        unit, wire: as in `check_unit`.
        where: begins the message of what is raised.

    Raises:
        LogError: the place has another unit by convention, and the map does not say otherwise; or what it says
            is a position where the convention is a rate, or the other way round.
    """
    if not carried or unit == "1":
        return
    if not wire and not any(same_kind(unit, each) for each in carried):
        raise LogError(
            f"{where}: expected the contract's {unit!r}, got {' or '.join(carried)}, which this place has by "
            "convention; correct the topic map, or give its `unit` where the driver sends another"
        )
    if wire and axis_unit(wire) not in ("1", "%") and rate_order(wire) not in {rate_order(each) for each in carried}:
        raise LogError(
            f"{where}: expected a unit such as {' or '.join(carried)}, which this place has by convention, the topic "
            f"map says {wire!r}; correct the path, the `quantity` or the `unit`"
        )


def convention(message: Any, steps: Sequence[Step]) -> tuple[str, ...]:
    """The units that a place of this message has by convention; nothing where it has none, or is not there."""
    units: tuple[str, ...] = ()
    here: Any = message
    for step in steps:
        units = CONVENTIONS.get((type(here).__name__, step.field), units)
        here = getattr(here, step.field, None)
        if is_array(here):
            here = here[0] if len(here) else None
    return units
