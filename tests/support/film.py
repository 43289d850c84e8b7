"""Tiny random-weight film_policy checkpoints, with the contracts of robots that do not exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

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
from edgevlm_export.models.film_policy import CameraFusion, CameraInput, FilmPolicy, FilmPolicyConfig

WORDS = ("[PAD]", "[UNK]", "push", "pull", "lift", "the", "red", "blue", "cup")
MAX_TOKENS = 6
NORMALIZE = {"op": "normalize", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def contract(*cameras: str, window: int = 3) -> Contract:
    """Cameras of 40x30, a state of two joints, a chunk of 4 x 3, a plan of 2 waypoints."""
    return Contract(
        cameras=tuple(CameraSpec(name=name, width=40, height=30, rate_hz=(10.0, 30.0)) for name in cameras),
        state=StateSpec(fields=tuple(StateField(name=name, unit="rad", mean=0.1, std=0.5) for name in ("j1", "j2"))),
        instruction=InstructionSpec(max_tokens=MAX_TOKENS),
        window=WindowSpec(offsets_s=tuple(-0.1 * i for i in reversed(range(window))), tolerance_s=0.04),
        action=ActionSpec(
            groups=(
                ActionGroup(
                    kind="ee_delta",
                    names=("x", "y"),
                    units=("m", "m"),
                    scale=(0.01, 0.01),
                    offset=(0.0, 0.0),
                    lower=(-0.05, -0.05),
                    upper=(0.05, 0.05),
                ),
                ActionGroup(
                    kind="gripper",
                    names=("grip",),
                    units=("1",),
                    scale=(1.0,),
                    offset=(0.0,),
                    lower=(-1.0,),
                    upper=(1.0,),
                ),
            ),
            steps=4,
            step_s=0.1,
            execute_steps=2,
        ),
        plan=PlanSpec(
            steps=("approach", "grasp"),
            waypoint_offsets_s=(0.5, 1.0),
            names=("x", "y"),
            units=("m", "m"),
            scale=(0.1, 0.1),
            offset=(0.0, 0.0),
        ),
    )


def config(*cameras: str, window: int = 3, shared_trunk: bool = True) -> FilmPolicyConfig:
    """The smallest model that has every part."""
    return FilmPolicyConfig(
        cameras=tuple(CameraInput(name=name, width=32, height=32) for name in cameras),
        shared_trunk=shared_trunk,
        window=window,
        vocabulary=len(WORDS),
        max_tokens=MAX_TOKENS,
        state_size=2,
        chunk_steps=4,
        action_size=3,
        waypoints=2,
        waypoint_size=2,
        plan_steps=2,
        stem_width=8,
        map_width=8,
        text_width=16,
        text_layers=1,
        text_heads=2,
        fusion_blocks=1,
        keypoints=8,
        hidden=32,
    )


def write_tokenizer(path: Path) -> None:
    """A word tokenizer."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))


def write_checkpoint(
    folder: Path,
    *cameras: str,
    window: int = 3,
    shared_trunk: bool = True,
    seed: int = 0,
    deaf: bool = False,
) -> Path:
    """The three files of a random model that listens to all its inputs, or (`deaf`) to no words."""
    cameras = cameras or ("front",)
    torch.manual_seed(seed)
    model = FilmPolicy(config(*cameras, window=window, shared_trunk=shared_trunk))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, CameraFusion):  # a random heat map is flat, and pictures would not matter
            module.heat.weight.data *= 40.0
    if deaf:
        model.text.norm.weight.data.zero_()
    fields = contract(*cameras, window=window).model_dump(mode="json")
    resize = {"op": "resize", "width": 32, "height": 32}
    preprocess = {name: [resize, NORMALIZE] for name in cameras}
    model.save_pretrained(folder, {"contract": fields, "preprocess": preprocess})
    write_tokenizer(folder / "tokenizer.json")
    return folder


def edit_config(folder: Path, changes: dict[str, Any]) -> None:
    """Set keys of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
