"""Scripted experts: pure functions of the privileged state, in the manner of Meta-World's own policies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm_tabletop.commands import Command

STEPS = ("approach", "descend", "grasp", "carry", "press", "pull", "push", "done")
"""Names of what the hand can be doing, in the order of the plan head's logits."""

MAX_STEP_M = 0.0065
"""Largest motion per axis in one control step."""
OPEN, CLOSED = -1.0, 1.0

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class World:
    """The privileged state an expert sees: positions in metres in the robot's base frame."""

    hand: Vector
    gripper_m: float
    pucks: dict[str, Vector]
    handle: Vector
    drawer_open_m: float
    button: Vector
    button_pressed_m: float


@dataclass(frozen=True, kw_only=True)
class Move:
    """What an expert does now: motion of the hand in metres for one control step, the gripper, and the step's name."""

    delta_m: Vector
    gripper: float
    step: str

    def values(self) -> NDArray[np.float32]:
        """The action vector: dx, dy, dz, gripper."""
        return np.append(self.delta_m, self.gripper).astype(np.float32)  # (4,)


def succeeded(world: World, command: Command) -> bool:
    """Whether the world now is as `command` asks."""
    verb = command.verb
    if verb == "press":
        return world.button_pressed_m > 0.035
    if verb == "open":
        return world.drawer_open_m > 0.135
    if verb == "close":
        return world.drawer_open_m < 0.015
    puck = world.pucks[command.colour]
    if verb == "left":
        return bool(puck[0] < -0.15)
    if verb == "right":
        return bool(puck[0] > 0.15)
    if verb == "lift":
        return bool(puck[2] > 0.13)
    offset = world.hand - puck
    return bool(np.hypot(offset[0], offset[1]) < 0.03 and offset[2] < 0.085)


def expert(world: World, command: Command) -> Move:
    """The clean expert's move towards `command`."""
    if command.verb == "press":
        return _press(world)
    if command.verb == "open":
        return _open(world)
    if command.verb == "close":
        return _close(world)
    if command.verb == "reach":
        return _reach(world, world.pucks[command.colour])
    return _transport(world, world.pucks[command.colour], command.verb)


def _toward(world: World, target: Vector, gripper: float, step: str, gain: float = 0.2) -> Move:
    delta = np.clip(gain * (target - world.hand), -MAX_STEP_M, MAX_STEP_M)
    return Move(delta_m=delta, gripper=gripper, step=step)


def _hold(gripper: float, step: str) -> Move:
    return Move(delta_m=np.zeros(3), gripper=gripper, step=step)


def _reach(world: World, puck: Vector) -> Move:
    offset = world.hand - puck
    off_axis = np.hypot(offset[0], offset[1])
    if off_axis > 0.022:
        return _toward(world, puck + (0, 0, 0.12), OPEN, "approach")
    if offset[2] > 0.075:
        return _toward(world, puck + (0, 0, 0.06), OPEN, "descend")
    return _hold(OPEN, "done")


def _transport(world: World, puck: Vector, verb: str) -> Move:
    goal = puck + (-0.005, 0, 0)
    offset = world.hand - goal
    off_axis = np.hypot(offset[0], offset[1])
    if off_axis > 0.022 or offset[2] < -0.02:
        return _toward(world, goal + (0, 0, 0.12), OPEN, "approach")
    if offset[2] > 0.045:
        return _toward(world, goal + (0, 0, 0.03), OPEN, "descend", gain=0.3)
    if world.gripper_m > HELD_GRIPPER_M:
        return _hold(CLOSED, "grasp")
    return _carry(world, puck, verb)


HELD_GRIPPER_M = 0.073


def _carry(world: World, puck: Vector, verb: str) -> Move:
    if verb == "lift":
        if puck[2] > 0.14:
            return _hold(CLOSED, "done")
        return _toward(world, np.array([world.hand[0], world.hand[1], 0.25]), CLOSED, "carry")
    side = -1.0 if verb == "left" else 1.0
    if side * puck[0] > 0.16:
        return _hold(CLOSED, "done")
    return _toward(world, np.array([side * 0.22, world.hand[1], 0.10]), CLOSED, "carry")


def _press(world: World) -> Move:
    if world.button_pressed_m > 0.04:
        return _hold(CLOSED, "done")
    offset = world.hand - world.button
    if np.hypot(offset[0], offset[1]) > 0.03:
        return _toward(world, world.button + (0, 0, 0.08), CLOSED, "approach")
    return _toward(world, world.hand + (0, 0, -0.06), CLOSED, "press")


def _open(world: World) -> Move:
    if world.drawer_open_m > 0.145:
        return _hold(OPEN, "done")
    hook = world.handle + (0, -0.022, 0)
    offset = world.hand - hook
    low = offset[2] < 0.015
    slack = 0.035 if low else 0.016
    if np.abs(offset[0]) > 0.03 or np.abs(offset[1]) > slack:
        return _toward(world, hook + (0, 0, 0.12), OPEN, "approach")
    if not low:
        return _toward(world, hook + (0, 0, -0.02), OPEN, "descend", gain=0.3)
    return _toward(world, world.hand + (0, -0.06, 0), OPEN, "pull")


def _close(world: World) -> Move:
    if world.drawer_open_m < 0.010:
        return _hold(CLOSED, "done")
    front = world.handle + (0, -0.075, 0)
    offset = world.hand - front
    low = world.hand[2] < world.handle[2] + 0.03
    if np.abs(offset[0]) > 0.03 or (offset[1] > 0.03 and not low) or offset[1] < -0.04:
        return _toward(world, front + (0, 0, 0.12), CLOSED, "approach")
    if not low:
        return _toward(world, front + (0, 0, 0.0), CLOSED, "descend", gain=0.3)
    return _toward(world, world.hand + (0, 0.05, 0), CLOSED, "push")
