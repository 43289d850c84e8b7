"""Model families: which adapter cuts which kind of checkpoint into stages.

A checkpoint is a directory with config.json, whose `model_type` names the family. An adapter is a module with
`build(checkpoint: Path) -> StageGraph`.
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


def build(checkpoint: Path) -> StageGraph:
    """The stages of a checkpoint.

    Raises:
        CheckpointError: the directory is missing, incomplete or corrupt.
        FamilyError: no adapter knows its model_type.
    """
    model_type = read_config(checkpoint).get("model_type")
    if model_type not in FAMILIES:
        raise FamilyError(
            f"{checkpoint / 'config.json'}: expected a model_type among {sorted(FAMILIES)}, got {model_type!r}; "
            "write an adapter in edgevlm_export/families for it, or check that this is the right checkpoint"
        )
    graph: StageGraph = importlib.import_module(FAMILIES[model_type]).build(checkpoint)
    return graph
