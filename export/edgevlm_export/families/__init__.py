"""Model families: which adapter cuts which kind of checkpoint into stages.

A checkpoint is a directory with config.json, whose `model_type` names the family, or `type` in a LeRobot policy. An
adapter is a module with `build(checkpoint: Path) -> StageGraph`; that of a chat takes the longest context in tokens as
well, that of a LeRobot policy the robot file.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from edgevlm.errors import FamilyError
from edgevlm_export.families.checkpoint import read_config
from edgevlm_export.stage_graph import StageGraph

# model_type -> adapter, imported when a checkpoint asks for it
FAMILIES = {
    "clip": "edgevlm_export.families.clip",
    "film_policy": "edgevlm_export.families.film_policy",
    "siglip": "edgevlm_export.families.siglip",
}
CHATS = {
    "idefics3": "edgevlm_export.families.smolvlm",
    "llava": "edgevlm_export.families.llava",
    "paligemma": "edgevlm_export.families.paligemma",
    "smolvlm": "edgevlm_export.families.smolvlm",
}
LEROBOT = {
    "act": "edgevlm_export.families.act",
}


def build(checkpoint: Path, context: int | None = None, robot: Path | None = None) -> StageGraph:
    """The stages of a checkpoint.

    Args:
        context: how many tokens a chat shall hold, None for what is usual.
        robot: what a LeRobot policy does not say of the robot, see `families.robot_file`.

    Raises:
        CheckpointError: the directory is missing, incomplete or corrupt.
        FamilyError: no adapter knows its model_type, or it has no context, or needs no robot file.
        ContractError: a LeRobot policy without a robot file, or with one that does not fit.
    """
    config = read_config(checkpoint)
    model_type = config.get("model_type", config.get("type"))
    graph: StageGraph
    if "model_type" not in config and model_type in LEROBOT:
        if context is not None:
            raise FamilyError(f"{checkpoint}: --context belongs to a chat, this is a {model_type!r}; leave it out")
        graph = importlib.import_module(LEROBOT[model_type]).build(checkpoint, robot)
        return graph
    if robot is not None:
        raise FamilyError(
            f"{checkpoint}: --robot belongs to a LeRobot policy of {sorted(LEROBOT)}, this is a {model_type!r}; leave "
            "it out"
        )
    if model_type in CHATS:
        graph = importlib.import_module(CHATS[model_type]).build(checkpoint, context)
        return graph
    if model_type not in FAMILIES:
        known = sorted({**FAMILIES, **CHATS, **LEROBOT})
        raise FamilyError(
            f"{checkpoint / 'config.json'}: expected a model_type among {known}, got {model_type!r}; write an adapter "
            "in edgevlm_export/families for it, or check that this is the right checkpoint"
        )
    if context is not None:
        raise FamilyError(f"{checkpoint}: --context belongs to a chat, this is a {model_type!r}; leave it out")
    graph = importlib.import_module(FAMILIES[model_type]).build(checkpoint)
    return graph
