"""The one step that keeps an axis within its limits.

An absolute column is sent as a position, every other moving column as a velocity: a delta relative to the previous
row becomes delta / step_s. The velocity of a position column is (p[k] - p[k-1]) / dt, and acceleration of every
column (v[k] - v[k-1]) / dt, where dt is the time since the command before.

An axis can always brake: v may only be so large that from room `d` to a limit
  position columns  v^2 / 2a + v dt <= d   (p moves by v dt at this command; any later dt needs no more room)
  velocity columns  v^2 / 2a + v T  <= d   (v is held until the next command, at most T = command_valid_s later)
holds after the step; braking as hard as the acceleration limit allows keeps both true, whatever the later dt are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from edgevlm.loop.columns import Column


def fastest(room: float, acceleration: float, horizon_s: float) -> float:
    """The largest v with v^2 / 2a + v * horizon <= room."""
    if room <= 0:
        return 0.0
    by_horizon = acceleration * horizon_s
    return math.sqrt(by_horizon * by_horizon + 2 * acceleration * room) - by_horizon


def reachable(
    column: Column, velocity: float, dt: float, room: tuple[float, float], horizon_s: float
) -> tuple[float, float]:
    """Lowest and highest next velocity, with the room (below, above) to the limits of the position.

    Where the limits contradict each other (a measured position that jumped towards a limit), acceleration wins: the
    range is then the hardest braking alone.
    """
    change = column.acceleration * dt
    slowest, highest = velocity - change, velocity + change
    low = max(column.lower, -fastest(room[0], column.acceleration, horizon_s))
    high = min(column.upper, fastest(room[1], column.acceleration, horizon_s))
    return min(max(low, slowest), highest), min(max(high, slowest), highest)


class At(NamedTuple):
    """Where an axis was commanded to be, how fast it went there, and whether limits kept it behind its target."""

    position: float
    velocity: float
    behind: bool


def step_position(column: Column, at: At, target: float | None, dt: float, remaining: float) -> At:
    """The next command; `behind` says that a limit changed it. None brakes.

    `target` is meant to be reached `remaining` seconds after the command before. What the limits allow is done exactly
    so; an axis that fell behind catches up no faster than it can stop at the target.
    """
    room = (at.position - column.low, column.high - at.position)
    low, high = reachable(column, at.velocity, dt, room, dt)
    if target is None:
        chosen = min(max(0.0, low), high)
        return At(min(max(at.position + chosen * dt, column.low), column.high), chosen, False)
    inside = min(max(target, column.low), column.high)
    wanted = (inside - at.position) / max(dt, remaining)
    if low <= wanted <= high and not (at.behind and abs(wanted) > abs(at.velocity)):
        if remaining <= dt:
            return At(inside, wanted, inside != target)
        chosen = wanted
    else:
        stoppable = fastest(abs(inside - at.position), column.acceleration, dt)
        chosen = min(max(min(max(wanted, -stoppable), stoppable), low), high)
    limited = chosen != wanted or inside != target
    return At(min(max(at.position + chosen * dt, column.low), column.high), chosen, limited)


def step_velocity(
    column: Column, position: float | None, velocity: float, target: float | None, dt: float, horizon_s: float
) -> tuple[float, bool]:
    """Next velocity, and whether a limit changed it; None brakes. `position`: where the axis is now, if measured."""
    room = (math.inf, math.inf) if position is None else (position - column.low, column.high - position)
    low, high = reachable(column, velocity, dt, room, horizon_s)
    chosen = min(max(0.0 if target is None else target, low), high)
    return chosen, target is not None and chosen != target
