"""Model families: which adapter cuts which kind of checkpoint into stages.

A checkpoint is a directory with config.json, whose `model_type` names the family, or `type` in a LeRobot policy. An
adapter is a module with `build(checkpoint: Path) -> StageGraph`, and what `Adapter.takes` says as a second argument.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgevlm.errors import FamilyError
from edgevlm_export.checkpoint import CONFIG, check_stored
from edgevlm_export.families.checkpoint import architectures, read_config
from edgevlm_export.stage_graph import StageGraph

Takes = Literal["context", "robot"]
OPTIONS: Mapping[Takes, str] = {
    "context": "--context belongs to a chat",
    "robot": "--robot belongs to a LeRobot policy",
}


@dataclass(frozen=True)
class Adapter:
    """The module that knows a family, imported when a checkpoint asks for it.

    Attributes:
        takes: `context`, the tokens a chat shall hold, None for what is usual; `robot`, what a LeRobot policy does not
            say of the robot, see `families.robot_file`.
    """

    name: str
    takes: Takes | None = None


# model_type -> adapter, or, where one name stands for several models, architecture -> adapter
FAMILIES: Mapping[str, Adapter | Mapping[str, Adapter]] = {
    "blip": {
        "BlipForConditionalGeneration": Adapter("blip_chat", "context"),
        "BlipForImageTextRetrieval": Adapter("blip_matching"),
        "BlipForQuestionAnswering": Adapter("blip_chat", "context"),
    },
    "blip-2": Adapter("blip_2", "context"),
    "clip": Adapter("clip"),
    "film_policy": Adapter("film_policy"),
    "idefics3": Adapter("smolvlm", "context"),
    "llava": Adapter("llava", "context"),
    "owlv2": Adapter("owlv2"),
    "owlvit": Adapter("owlvit"),
    "paligemma": Adapter("paligemma", "context"),
    "siglip": Adapter("siglip"),
    "smolvlm": Adapter("smolvlm", "context"),
    "visual_bert": Adapter("visual_bert"),
}
# `type` of a LeRobot policy -> adapter
LEROBOT: Mapping[str, Adapter] = {
    "act": Adapter("act", "robot"),
    "smolvla": Adapter("smolvla", "robot"),
}


def build(checkpoint: Path, context: int | None = None, robot: Path | None = None) -> StageGraph:
    """The stages of a checkpoint; `context` and `robot` as `Adapter.takes` says.

    Raises:
        CheckpointError: the directory is missing, incomplete or corrupt.
        FamilyError: no adapter knows its model_type, or it has no context, or needs no robot file.
        ContractError: a LeRobot policy without a robot file, or with one that does not fit.
    """
    config = read_config(checkpoint)
    adapter = _adapter(checkpoint, config)
    given: dict[Takes, Any] = {"context": context, "robot": robot}
    for option, value in given.items():
        if value is not None and adapter.takes != option:
            kind = config.get("model_type", config.get("type"))
            raise FamilyError(f"{checkpoint}: {OPTIONS[option]}, this is a {kind!r}; leave it out")
    check_stored(checkpoint, config)
    module = importlib.import_module(f"edgevlm_export.families.{adapter.name}")
    graph: StageGraph = module.build(checkpoint, *([given[adapter.takes]] if adapter.takes else []))
    return graph


def _adapter(checkpoint: Path, config: Mapping[str, Any]) -> Adapter:
    lerobot = "model_type" not in config and "type" in config
    kind = config.get("type") if lerobot else config.get("model_type")
    known = LEROBOT if lerobot else FAMILIES
    found = known.get(kind) if isinstance(kind, str) else None
    if isinstance(found, Mapping):
        said = architectures(checkpoint, config)
        if len(said) != 1 or said[0] not in found:
            raise FamilyError(
                f"{checkpoint / CONFIG}: 'architectures': expected one of {sorted(found)}, got {list(said)!s:.200}; "
                "this part of the model is not supported"
            )
        return found[said[0]]
    if found is None:
        raise FamilyError(
            f"{checkpoint / CONFIG}: expected a model_type among {sorted({**FAMILIES, **LEROBOT})}, got {kind!r}; "
            "write an adapter in edgevlm_export/families for it, or check that this is the right checkpoint"
        )
    return found
