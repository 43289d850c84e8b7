"""The one step that keeps an axis, or an orientation as a whole, within its limits.

An absolute column is sent as a position, every other moving column as a velocity: a delta relative to the previous
row becomes delta / step_s. The velocity of a position column is (p[k] - p[k-1]) / dt, and acceleration of every
column (v[k] - v[k-1]) / dt, where dt is the time since the command before.

On the system's clock dt is steady time, and a velocity grows by no more than the smaller of data and steady time allows
(`Elapsed`).

An axis can always brake: v may only be so large that from room `d` to a limit
  position columns  v^2 / 2a + v dt <= d   (p moves by v dt at this command; any later dt needs no more room)
  velocity columns  v^2 / 2a + v T  <= d   (v is held until the next command, at most T = command_valid_s later)
holds after the step; braking as hard as the acceleration limit allows keeps both true, whatever the later dt are.

Angular velocity is about the fixed axes: w[k] = log(q[k] q[k-1]^-1) / dt. Angles and their rates are limited by their
magnitude, so a limit does not change the axis of a rotation that begins at rest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from edgevlm.clock import Elapsed
from edgevlm.gate.columns import Column
from edgevlm.gate.limits import OrientationLimits
from edgevlm.gate.rotation import Quaternion, Vector, between, multiply_unit, nearest_turn, norm, scaled


def fastest(room: float, acceleration: float, horizon_s: float) -> float:
    """The largest v with v^2 / 2a + v * horizon <= room."""
    if room <= 0:
        return 0.0
    by_horizon = acceleration * horizon_s
    return math.sqrt(by_horizon * by_horizon + 2 * acceleration * room) - by_horizon


def reachable(
    column: Column, velocity: float, elapsed: Elapsed, room: tuple[float, float], horizon_s: float
) -> tuple[float, float]:
    """Lowest and highest next velocity, with the room (below, above) to the limits of the position.

    Where the limits contradict each other (a measured position that jumped towards a limit), acceleration wins: the
    range is then the hardest braking alone. A limit may be braked for as hard as all of the time allows; what is only
    wished for may change by `elapsed.change_s` alone.
    """
    hardest = column.acceleration * max(elapsed)
    slowest, highest = velocity - hardest, velocity + hardest
    low = max(column.lower, -fastest(room[0], column.acceleration, horizon_s))
    high = min(column.upper, fastest(room[1], column.acceleration, horizon_s))
    if column.sent == "position" and elapsed.change_s < elapsed.move_s:
        # Data time runs slower than steady time: the velocity limit holds by both as far as braking can make it.
        share = elapsed.change_s / elapsed.move_s
        low, high = max(low, column.lower * share), min(high, column.upper * share)
    low, high = min(max(low, slowest), highest), min(max(high, slowest), highest)
    change = column.acceleration * elapsed.change_s
    low = min(max(low, velocity - change), high)
    return low, max(min(high, velocity + change), low)


class At(NamedTuple):
    """Where an axis was commanded to be, how fast it went there, and whether limits kept it behind its target."""

    position: float
    velocity: float
    behind: bool


def step_position(column: Column, at: At, target: float | None, elapsed: Elapsed, remaining: float) -> At:
    """The next command; `behind` says that a limit changed it. None brakes.

    `target` is meant to be reached `remaining` seconds after the command before. What the limits allow is done exactly
    so; an axis that fell behind catches up no faster than it can stop at the target. Outside its range an axis may only
    come back, at the speed that its limits allow. A joint without ends turns the shorter way.
    """
    dt = elapsed.move_s
    room = (at.position - column.low, column.high - at.position)
    low, high = reachable(column, at.velocity, elapsed, room, dt)
    if target is None:
        chosen = min(max(0.0, low), high)
        return At(_within(column, at.position, chosen * dt), chosen, False)
    target = nearest_turn(target, at.position, column.period) if column.period else target
    inside = min(max(target, column.low), column.high)
    requested = (inside - at.position) / max(dt, remaining)
    if low <= requested <= high and not (at.behind and abs(requested) > abs(at.velocity)):
        if remaining <= dt:
            return At(inside, requested, inside != target)
        chosen = requested
    else:
        stoppable = fastest(abs(inside - at.position), column.acceleration, dt)
        chosen = min(max(min(max(requested, -stoppable), stoppable), low), high)
    limited = chosen != requested or inside != target
    return At(_within(column, at.position, chosen * dt), chosen, limited)


def _within(column: Column, position: float, change: float) -> float:
    """The position after a change; no further outside its range than before."""
    return min(max(position + change, min(column.low, position)), max(column.high, position))


def step_velocity(
    column: Column, position: float | None, velocity: float, target: float | None, elapsed: Elapsed, horizon_s: float
) -> tuple[float, bool]:
    """Next velocity, and whether a limit changed it; None brakes. `position`: where the axis is now, if measured."""
    room = (math.inf, math.inf) if position is None else (position - column.low, column.high - position)
    low, high = reachable(column, velocity, elapsed, room, horizon_s)
    chosen = min(max(0.0 if target is None else target, low), high)
    return chosen, target is not None and chosen != target


class Facing(NamedTuple):
    """How a body was commanded to be turned, how fast it turned there, and whether limits kept it behind its target."""

    q: Quaternion
    rate: Vector
    behind: bool


def step_orientation(
    limits: OrientationLimits, at: Facing, target: Quaternion | None, elapsed: Elapsed, remaining: float
) -> Facing:
    """The next command, by the rules of `step_position`; `behind` says that a limit changed it. None brakes."""
    dt, change = elapsed.move_s, limits.acceleration * elapsed.change_s
    velocity = limits.velocity * (elapsed.change_s / dt if elapsed.change_s < dt else 1.0)
    if target is None:
        chosen = _towards(at.rate, (0.0, 0.0, 0.0), change)
        return Facing(multiply_unit(scaled(chosen, dt), at.q), chosen, False)
    turn = between(at.q, target)
    angle = norm(turn)
    requested_rate = scaled(turn, 1 / max(dt, remaining))
    speed = norm(requested_rate)
    allowed = speed <= velocity and norm(_minus(requested_rate, at.rate)) <= change
    if allowed and not (at.behind and speed > norm(at.rate)):
        exact = remaining <= dt
        return Facing(target if exact else multiply_unit(scaled(requested_rate, dt), at.q), requested_rate, False)
    speed = min(speed, velocity, fastest(angle, limits.acceleration, dt))
    chosen = _towards(at.rate, scaled(turn, speed / angle) if angle else turn, change)
    return Facing(multiply_unit(scaled(chosen, dt), at.q), chosen, True)


def _towards(start: Vector, end: Vector, most: float) -> Vector:
    """From `start` to `end`, but no further than `most`."""
    difference = _minus(end, start)
    distance = norm(difference)
    if distance <= most:
        return end
    share = most / distance
    return start[0] + share * difference[0], start[1] + share * difference[1], start[2] + share * difference[2]


def _minus(a: Vector, b: Vector) -> Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]
