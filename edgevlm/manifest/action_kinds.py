"""Kinds of action groups, a row each: what a contract, a gate and a relay need to know of one.

What differs at the wire stands in `edgevlm_ros.command_kinds`, by the names in `commands`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ActionKind = Literal["joint_position", "joint_delta", "joint_velocity", "ee_pose", "ee_delta", "twist", "gripper"]
RelativeTo = Literal["none", "observation", "previous"]
Quantity = Literal["position", "velocity", "value"]  # a value is bounded by the contract alone: nothing moves at a rate


@dataclass(frozen=True, kw_only=True)
class ActionRow:
    """How the columns of a kind are sent.

    Attributes:
        sent: what is sent for a column, by what its group is relative to. Without an entry it can be read in two ways
            and is refused.
        commands: the messages (topics under command/) of what is sent, the usual one first; `topic_type` of a contract
            picks another.
        per_step: a velocity is a column's change over one step of the chunk, not a rate.
        rotation: the last columns may be an orientation, or angles that are sent one by one; or there are no angles.
        measured_alike: a column and the state field of its name have one unit.
    """

    sent: Mapping[RelativeTo, Quantity]
    commands: Mapping[Quantity, tuple[str, ...]]
    per_step: bool = False
    rotation: Literal["none", "columns", "orientation"] = "none"
    measured_alike: bool = False

    @property
    def moves(self) -> bool:
        """Whether its columns have limits of motion."""
        return "value" not in self.sent.values()


_POSITION: Mapping[RelativeTo, Quantity] = {"none": "position", "observation": "position"}
_DELTA: Mapping[RelativeTo, Quantity] = {"previous": "velocity", "observation": "position"}
_VELOCITY: Mapping[RelativeTo, Quantity] = dict.fromkeys(("none", "observation", "previous"), "velocity")
_VALUE: Mapping[RelativeTo, Quantity] = dict.fromkeys(("none", "observation", "previous"), "value")
_JOINTS: Mapping[Quantity, tuple[str, ...]] = {
    "position": ("joint_trajectory", "joint_position"),
    "velocity": ("joint_velocity",),
}
_HAND: Mapping[Quantity, tuple[str, ...]] = {"position": ("pose",), "velocity": ("twist",)}

ACTION_KINDS: Mapping[ActionKind, ActionRow] = {
    "joint_position": ActionRow(sent=_POSITION, commands=_JOINTS, measured_alike=True),
    "joint_delta": ActionRow(sent=_DELTA, commands=_JOINTS, per_step=True, measured_alike=True),
    "joint_velocity": ActionRow(sent=_VELOCITY, commands=_JOINTS),
    "ee_pose": ActionRow(sent=_POSITION, commands=_HAND, rotation="orientation"),
    "ee_delta": ActionRow(sent=_DELTA, commands=_HAND, per_step=True, rotation="columns"),
    "twist": ActionRow(sent=_VELOCITY, commands=_HAND, rotation="columns"),
    "gripper": ActionRow(sent=_VALUE, commands={"value": ("gripper",)}),
}
BY_JOINT = ("joint_position", "joint_velocity", "gripper")  # commands that name a value for each joint
