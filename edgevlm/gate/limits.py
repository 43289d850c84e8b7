"""What a robot may be told: limits of its axes, deadlines, and what to fall back to. Plain data, checked once.

Lengths are in the units of the contract's columns (m, rad), rates in those units a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from edgevlm.clock import TimeSource
from edgevlm.manifest.contract import Duration, Spec

Cause = Literal[
    "estop",
    "deactivated",
    "clock_stopped",
    "clock_jump",
    "publisher_conflict",
    "state_missing",
    "state_stale",
    "state_not_finite",
    "outside_workspace",
    "tracking",
    "heartbeat_missing",
    "chunk_not_finite",
    "chunk_missing",
    "chunk_early",
    "chunk_spent",
    "chunk_expired",
]
Fallback = Literal["hold", "decelerate", "stop"]
ChunkDeadline = Literal["deadline", "whole_chunk"]

# hold: brake, then keep sending the resting command. decelerate: brake, then send nothing. stop: send nothing, raise
# the stop signal. A fallback only becomes stricter, in this order, until the gate has recovered.
SEVERITY: Mapping[Fallback, int] = {"hold": 0, "decelerate": 1, "stop": 2}

FALLBACKS: Mapping[Cause, Fallback] = {
    "estop": "stop",
    "deactivated": "hold",
    "clock_stopped": "hold",
    "clock_jump": "hold",
    "publisher_conflict": "hold",
    "state_missing": "hold",
    "state_stale": "hold",
    "state_not_finite": "hold",
    "outside_workspace": "hold",
    "tracking": "hold",
    "heartbeat_missing": "hold",
    "chunk_not_finite": "hold",
    "chunk_missing": "hold",
    "chunk_early": "hold",
    "chunk_spent": "hold",
    "chunk_expired": "hold",
}

Positive = Annotated[float, Field(gt=0, le=1e9)]
Range = tuple[float, float]


class AxisLimits(Spec):
    """One moving column of the contract's actions.

    Attributes:
        action: the column's name in the contract.
        state: the field of the contract's state that measures this axis; None says that nothing measures it.
        position: (lowest, highest) of the measured axis: the workspace, or the joint's range.
        velocity, acceleration: magnitudes.
        tracking: how far a position command may be from the measured position.
        continuous: a joint without ends, as URDF's `continuous`: positions a whole turn apart are the same.
    """

    action: str = Field(min_length=1)
    state: str | None
    position: Range | None
    velocity: Positive
    acceleration: Positive
    tracking: Positive | None
    continuous: bool = False

    @model_validator(mode="after")
    def _measured(self) -> AxisLimits:
        if self.position is not None and self.position[0] >= self.position[1]:
            raise ValueError(f"axis {self.action!r}: position must be (lowest, highest), got {self.position}")
        if self.state is None and (self.position is not None or self.tracking is not None):
            raise ValueError(
                f"axis {self.action!r}: position and tracking limits need the state field that measures the axis"
            )
        if self.continuous and self.position is not None:
            raise ValueError(
                f"axis {self.action!r}: a continuous joint has no range, got position {self.position}; leave position "
                "empty, or continuous false for a joint with ends"
            )
        return self


class OrientationLimits(Spec):
    """The rotation columns of an `ee_pose` group, limited as one rotation: rad, rad/s, rad/s^2.

    Attributes:
        actions: its columns: x, y, z, w of a quaternion, or 3 of a rotation vector, or roll, pitch, yaw.
        state: the state fields that measure them, in the same order and form.
    """

    actions: tuple[str, ...] = Field(min_length=3, max_length=4)
    state: tuple[str, ...] = Field(min_length=3, max_length=4)
    velocity: Positive
    acceleration: Positive
    tracking: Positive


class GateLimits(Spec):
    """Everything the gate refuses by. Gripper columns are bounded by the contract's own limits alone.

    Attributes:
        command_period_s: how often `command` is called.
        command_valid_s: how long a command may be used; a gap longer than this starts again from rest.
        deadline_s: longest silence of chunks and of heartbeats, in steady time.
        chunk_deadline: "whole_chunk": a chunk may be the newest for as long as it is valid, however long that is.
        state_max_age_s: oldest state to act on, in data time.
        recover_after_s: how long all must be well before following goes on.
        future_s: how far a stamp may lie ahead of the clock.
        reset_after_s: a clock that jumps back by more has restarted.
        time: "system": limits hold in steady time, whatever data time does. "simulated": they hold in data time, and
            steady time only shows that it stopped (for longer than deadline_s).
        fallbacks: what to do for a cause; causes not named here do as in `FALLBACKS`.
        latched: causes that only `Gate.rearm` ends; `estop` always among them.
    """

    axes: tuple[AxisLimits, ...]
    orientations: tuple[OrientationLimits, ...] = ()
    command_period_s: Duration
    command_valid_s: Duration
    deadline_s: Duration
    chunk_deadline: ChunkDeadline = "deadline"
    state_max_age_s: Duration
    recover_after_s: Annotated[float, Field(ge=0, le=1e6)]
    future_s: Duration
    reset_after_s: Duration
    time: TimeSource = "system"
    fallbacks: Mapping[Cause, Fallback] = FALLBACKS
    latched: tuple[Cause, ...] = ("estop",)

    @field_validator("fallbacks", mode="after")
    @classmethod
    def _complete(cls, fallbacks: Mapping[Cause, Fallback]) -> Mapping[Cause, Fallback]:
        if fallbacks.get("estop", "stop") != "stop":
            raise ValueError("fallbacks: an emergency stop always stops; remove 'estop' from fallbacks")
        return {**FALLBACKS, **fallbacks}

    @field_validator("latched", mode="after")
    @classmethod
    def _estop_latches(cls, causes: tuple[Cause, ...]) -> tuple[Cause, ...]:
        if "estop" not in causes:
            raise ValueError(f"latched: an emergency stop always latches; expected 'estop' in it, got {list(causes)}")
        return causes

    @model_validator(mode="after")
    def _consistent(self) -> GateLimits:
        if self.command_valid_s < self.command_period_s:
            raise ValueError(
                f"command_valid_s {self.command_valid_s} must be at least command_period_s {self.command_period_s}"
            )
        names = [axis.action for axis in self.axes]
        names += [name for orientation in self.orientations for name in orientation.actions]
        if len(set(names)) != len(names):
            raise ValueError(f"axes: each action name once, got {names}")
        return self
