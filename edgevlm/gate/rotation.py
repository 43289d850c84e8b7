"""Orientations as unit quaternions (x, y, z, w), and the one step that keeps a rotation within its limits.

Angular velocity is about the fixed axes: w[k] = log(q[k] q[k-1]^-1) / dt. Angles and their rates are limited by their
magnitude, so a limit does not change the axis of a rotation that begins at rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from edgevlm.clock import Elapsed
from edgevlm.gate.axes import fastest
from edgevlm.gate.columns import Form
from edgevlm.gate.limits import OrientationLimits

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


def quaternion(form: Form, numbers: Sequence[float]) -> Quaternion:
    """One of the contract's forms -> a unit quaternion. `rpy`: angles about the fixed x, y, z (REP 103)."""
    if form == "quaternion_xyzw":
        x, y, z, w = numbers
        return normalize((x, y, z, w))
    a, b, c = numbers
    if form == "rotation_vector":
        return exponential((a, b, c))
    roll, pitch, yaw = exponential((a, 0.0, 0.0)), exponential((0.0, b, 0.0)), exponential((0.0, 0.0, c))
    return multiply(yaw, multiply(pitch, roll))


def numbers(form: Form, q: Quaternion, near: Quaternion) -> tuple[float, ...]:
    """A unit quaternion in one of the contract's forms, so that `quaternion` of them has the sign nearer to `near`.

    A rotation vector is then up to two half turns long, and a roll up to a whole turn: what follows `near` in small
    steps makes no jump in the quaternions that go over the wire.
    """
    signed = q if dot(q, near) >= 0 else _scaled4(q, -1.0)
    if form == "quaternion_xyzw":
        return signed
    if form == "rotation_vector":
        return _long_logarithm(signed, near)
    roll, pitch, yaw = _rpy(q)
    if dot(quaternion(form, (roll, pitch, yaw)), signed) < 0:
        roll -= math.copysign(math.tau, roll)
    return roll, pitch, yaw


def dot(a: Quaternion, b: Quaternion) -> float:
    """Below 0 when two unit quaternions have signs that do not fit each other."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]


def _scaled4(q: Quaternion, by: float) -> Quaternion:
    return q[0] * by, q[1] * by, q[2] * by, q[3] * by


def _long_logarithm(q: Quaternion, near: Quaternion) -> Vector:
    """The rotation vector, up to a whole turn long, of this very quaternion; the axis of a whole turn is free."""
    x, y, z, w = q
    sine = math.sqrt(x * x + y * y + z * z)
    if w >= 0 or sine > 1e-9:
        scale = 2.0 if sine < 1e-9 else 2 * math.atan2(sine, w) / sine
        return x * scale, y * scale, z * scale
    axis = near[:3] if _length(near[:3]) > 1e-9 else (1.0, 0.0, 0.0)
    return _scaled(axis, math.tau / _length(axis))


def _rpy(q: Quaternion) -> Vector:
    x, y, z, w = q
    pitch = math.asin(min(max(2 * (w * y - z * x), -1.0), 1.0))
    roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    return roll, pitch, math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def normalize(q: Quaternion) -> Quaternion:
    """The unit quaternion of the same direction; `q` is not zero."""
    x, y, z, w = q
    length = math.sqrt(x * x + y * y + z * z + w * w)
    return x / length, y / length, z / length, w / length


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """First `b`, then `a`."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def exponential(v: Vector) -> Quaternion:
    """A rotation vector -> a unit quaternion."""
    x, y, z = v
    angle = math.sqrt(x * x + y * y + z * z)
    scale = 0.5 - angle * angle / 48 if angle < 1e-4 else math.sin(angle / 2) / angle
    return normalize((x * scale, y * scale, z * scale, math.cos(angle / 2)))


def logarithm(q: Quaternion) -> Vector:
    """A unit quaternion -> the shortest rotation vector."""
    x, y, z, w = q
    if w < 0:
        x, y, z, w = -x, -y, -z, -w
    sine = math.sqrt(x * x + y * y + z * z)
    scale = 2.0 if sine < 1e-9 else 2 * math.atan2(sine, w) / sine
    return x * scale, y * scale, z * scale


def between(start: Quaternion, end: Quaternion) -> Vector:
    """The shortest rotation vector, about fixed axes, that turns `start` into `end`."""
    x, y, z, w = start
    return logarithm(multiply(end, (-x, -y, -z, w)))


class Facing(NamedTuple):
    """How a body was commanded to be turned, how fast it turned there, and whether limits kept it behind its target."""

    q: Quaternion
    rate: Vector
    behind: bool


def step_orientation(
    limits: OrientationLimits, at: Facing, target: Quaternion | None, elapsed: Elapsed, remaining: float
) -> Facing:
    """The next command, by the rules of `axes.step_position`; `behind` says that a limit changed it. None brakes."""
    dt, change = elapsed.move_s, limits.acceleration * elapsed.change_s
    velocity = limits.velocity * (elapsed.change_s / dt if elapsed.change_s < dt else 1.0)
    if target is None:
        chosen = _towards(at.rate, (0.0, 0.0, 0.0), change)
        return Facing(multiply_unit(_scaled(chosen, dt), at.q), chosen, False)
    turn = between(at.q, target)
    angle = _length(turn)
    requested_rate = _scaled(turn, 1 / max(dt, remaining))
    speed = _length(requested_rate)
    allowed = speed <= velocity and _length(_minus(requested_rate, at.rate)) <= change
    if allowed and not (at.behind and speed > _length(at.rate)):
        exact = remaining <= dt
        return Facing(target if exact else multiply_unit(_scaled(requested_rate, dt), at.q), requested_rate, False)
    speed = min(speed, velocity, fastest(angle, limits.acceleration, dt))
    chosen = _towards(at.rate, _scaled(turn, speed / angle) if angle else turn, change)
    return Facing(multiply_unit(_scaled(chosen, dt), at.q), chosen, True)


def multiply_unit(turn: Vector, q: Quaternion) -> Quaternion:
    """`q` turned by a rotation vector about fixed axes."""
    return normalize(multiply(exponential(turn), q))


def _towards(start: Vector, end: Vector, most: float) -> Vector:
    """From `start` to `end`, but no further than `most`."""
    difference = _minus(end, start)
    distance = _length(difference)
    if distance <= most:
        return end
    share = most / distance
    return start[0] + share * difference[0], start[1] + share * difference[1], start[2] + share * difference[2]


def _scaled(v: Vector, by: float) -> Vector:
    return v[0] * by, v[1] * by, v[2] * by


def _minus(a: Vector, b: Vector) -> Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _length(v: Vector) -> float:
    return math.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])
