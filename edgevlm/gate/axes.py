"""The one step that keeps an axis within its limits.

An absolute column is sent as a position, every other moving column as a velocity: a delta relative to the previous
row becomes delta / step_s. The velocity of a position column is (p[k] - p[k-1]) / dt, and acceleration of every
column (v[k] - v[k-1]) / dt, where dt is the time since the command before.

On the system's clock dt is steady time, and a velocity grows by no more than the smaller of data and steady time allows
(`Elapsed`).

An axis can always brake: v may only be so large that from room `d` to a limit
  position columns  v^2 / 2a + v dt <= d   (p moves by v dt at this command; any later dt needs no more room)
  velocity columns  v^2 / 2a + v T  <= d   (v is held until the next command, at most T = command_valid_s later)
holds after the step; braking as hard as the acceleration limit allows keeps both true, whatever the later dt are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from edgevlm.clock import Elapsed
from edgevlm.gate.averaging import nearest_turn
from edgevlm.gate.columns import Column


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
