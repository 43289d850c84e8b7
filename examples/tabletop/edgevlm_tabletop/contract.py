"""The tabletop robot's contract: its camera, arm and plan. The checkpoint carries a copy; nothing else retypes it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.contract import (
    ActionGroup,
    ActionSpec,
    CameraSpec,
    Contract,
    InstructionSpec,
    PlanSpec,
    StateField,
    StateSpec,
    WindowSpec,
)
from edgevlm.manifest.image_ops import Normalize, Resize
from edgevlm.preprocess import Preprocessor
from edgevlm_tabletop.commands import COMMANDS
from edgevlm_tabletop.demos import CHUNK_STEPS, WAYPOINT_STEPS
from edgevlm_tabletop.experts import MAX_STEP_M, STEPS
from edgevlm_tabletop.scene import CAMERA, IMAGE_HEIGHT, IMAGE_WIDTH
from edgevlm_tabletop.sim import STEP_S, STEPS_PER_FRAME

MODEL_WIDTH, MODEL_HEIGHT = 128, 96
PIXEL_MEAN, PIXEL_STD = 0.5, 0.5
MAX_TOKENS = 16
WINDOW_OFFSETS_S = (-0.6, -0.4, -0.2, 0.0)
FRAME_ID = "base"
_HAND = ("hand_x", "hand_y", "hand_z")
_STATE_MEAN = (0.0, 0.62, 0.16, 0.07)
_STATE_STD = (0.16, 0.09, 0.10, 0.03)
CHUNK_SCALE = np.array((MAX_STEP_M,) * 3 + (1.0,), np.float32)
_LIMIT_M = 0.008
_WAYPOINT_SCALE_M = 0.1


def contract() -> Contract:
    """The contract of every tabletop checkpoint."""
    names = (*_HAND, "gripper")
    fields = tuple(
        StateField(name=name, unit="m", mean=mean, std=std)
        for name, mean, std in zip(names, _STATE_MEAN, _STATE_STD, strict=True)
    )
    hand = ActionGroup(
        kind="ee_delta",
        names=("dx", "dy", "dz"),
        units=("m",) * 3,
        scale=(MAX_STEP_M,) * 3,
        offset=(0.0,) * 3,
        lower=(-_LIMIT_M,) * 3,
        upper=(_LIMIT_M,) * 3,
        frame_id=FRAME_ID,
        relative_to="previous",
    )
    gripper = ActionGroup(
        kind="gripper", names=("gripper",), units=("1",), scale=(1.0,), offset=(0.0,), lower=(-1.0,), upper=(1.0,)
    )
    examples = tuple(command.name for command in COMMANDS)
    return Contract(
        cameras=(
            CameraSpec(name=CAMERA, width=IMAGE_WIDTH, height=IMAGE_HEIGHT, encoding="rgb8", rate_hz=(10.0, 30.0)),
        ),
        state=StateSpec(fields=fields, frame_id=FRAME_ID),
        instruction=InstructionSpec(max_tokens=MAX_TOKENS, unknown="refuse", examples=examples),
        window=WindowSpec(offsets_s=WINDOW_OFFSETS_S, tolerance_s=0.05, pad="repeat"),
        action=ActionSpec(groups=(hand, gripper), steps=CHUNK_STEPS, step_s=STEP_S, execute_steps=STEPS_PER_FRAME),
        plan=PlanSpec(
            steps=STEPS,
            waypoint_offsets_s=tuple(round(steps * STEP_S, 6) for steps in WAYPOINT_STEPS),
            names=("x", "y", "z"),
            units=("m",) * 3,
            scale=(_WAYPOINT_SCALE_M,) * 3,
            offset=(0.0,) * 3,
            frame_id=FRAME_ID,
            relative_to=_HAND,
        ),
    )


OPERATIONS = (
    Resize(width=MODEL_WIDTH, height=MODEL_HEIGHT, filter="bilinear"),
    Normalize(mean=(PIXEL_MEAN,) * 3, std=(PIXEL_STD,) * 3),
)


def preprocessor() -> Preprocessor:
    """The runtime's own preprocess of the camera: (240, 320, 3) uint8 -> (1, 3, 96, 128) float32."""
    return Preprocessor(contract().cameras[0], OPERATIONS)


def shrinker() -> Preprocessor:
    """The same resize without the scaling: whole numbers from 0 to 255, for keeping frames as uint8."""
    return Preprocessor(contract().cameras[0], (OPERATIONS[0], Normalize(scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)))


def described() -> dict[str, Any]:
    """What config.json says beside the model: the contract, the preprocess of the camera, the simulator's name."""
    return {
        "contract": contract().model_dump(mode="json"),
        "preprocess": {CAMERA: [op.model_dump(mode="json") for op in OPERATIONS]},
        "extensions": {"simulator": "tabletop"},
    }


def normalise_state(state: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., 4) in metres -> what the model sees."""
    mean, std = np.array(_STATE_MEAN, np.float32), np.array(_STATE_STD, np.float32)
    scaled: NDArray[np.float32] = (state - mean) / std
    return scaled


def normalise_chunk(chunk: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., 4) physical -> the chunk head's units."""
    scaled: NDArray[np.float32] = chunk / CHUNK_SCALE
    return scaled


def normalise_waypoints(waypoints: NDArray[np.float32], hand_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """Waypoints (N, P, 3) in metres and the hand's position (N, 3) -> the plan head's units."""
    return ((waypoints - hand_m[:, None]) / np.float32(_WAYPOINT_SCALE_M)).astype(np.float32)
