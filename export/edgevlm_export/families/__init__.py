"""Model families: which adapter cuts which kind of checkpoint into stages.

config.json of a checkpoint names the family: `model_type`, or `type` in a LeRobot policy. An adapter is a module with
`prepare(checkpoint: Checkpoint) -> Prepared`, and what `Adapter.takes` says as a second argument.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgevlm.errors import FamilyError
from edgevlm_export.checkpoint import CONFIG, Checkpoint, check_stored
from edgevlm_export.prepared import Prepared
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
            say of the robot, see `families.common.robot_file`.
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


# `type` of LeRobot policies that have no adapter -> the supported one that is most like it
NEAREST: Mapping[str, str] = {
    **dict.fromkeys(("diffusion", "vqbet", "tdmpc", "multi_task_dit", "sac", "gaussian_actor"), "act"),
    **dict.fromkeys(("pi0", "pi05", "pi0_fast", "xvla", "groot", "wall_x", "eo1", "evo1", "molmoact2"), "smolvla"),
    **dict.fromkeys(("vla_jepa", "fastwam", "lingbot_va"), "smolvla"),
}


def build(checkpoint: Path, context: int | None = None, robot: Path | None = None) -> StageGraph:
    """The stages of a checkpoint directory, its weights loaded; see `prepare`."""
    return prepare(Checkpoint(checkpoint), context, robot).load()


def prepare(checkpoint: Checkpoint, context: int | None = None, robot: Path | None = None) -> Prepared:
    """A checkpoint whose files fit each other, its weights not loaded; `context`, `robot` as `Adapter.takes` says.

    Raises:
        CheckpointError: the directory is missing, incomplete or corrupt.
        FamilyError: no adapter knows its model_type, or it has no context, or needs no robot file.
        ContractError: a LeRobot policy without a robot file, or with one that does not fit.
    """
    adapter = _adapter(checkpoint)
    given: dict[Takes, Any] = {"context": context, "robot": robot}
    for option, value in given.items():
        if value is not None and adapter.takes != option:
            kind = checkpoint.config.get("model_type", checkpoint.config.get("type"))
            raise FamilyError(f"{checkpoint}: {OPTIONS[option]}, this is a {kind!r}; leave it out")
    check_stored(checkpoint)
    module = importlib.import_module(f"edgevlm_export.families.{adapter.name}")
    prepared: Prepared = module.prepare(checkpoint, *([given[adapter.takes]] if adapter.takes else []))
    return prepared


def robot_template(checkpoint: Checkpoint) -> str:
    """The robot file of a LeRobot policy, with "?" wherever only somebody who knows the robot can say.

    Raises:
        CheckpointError: the directory is missing, incomplete or corrupt.
        FamilyError: no adapter knows it, or it needs no robot file.
    """
    config = checkpoint.config
    adapter = _adapter(checkpoint)
    if adapter.takes != "robot":
        kind = config.get("model_type", config.get("type"))
        raise FamilyError(f"{checkpoint}: a robot file is for a LeRobot policy, this is a {kind!r}; export it as is")
    template: str = importlib.import_module(f"edgevlm_export.families.{adapter.name}").robot_template(checkpoint)
    return template


def _nearest(kind: object) -> str:
    close = difflib.get_close_matches(str(kind), list(LEROBOT), n=1)
    nearest = NEAREST.get(str(kind)) or (close[0] if close else None)
    return f"nearest is {nearest!r}" if nearest else "none is like it"


def _adapter(checkpoint: Checkpoint) -> Adapter:
    config = checkpoint.config
    lerobot = "model_type" not in config and "type" in config
    kind = config.get("type") if lerobot else config.get("model_type")
    known = LEROBOT if lerobot else FAMILIES
    found = known.get(kind) if isinstance(kind, str) else None
    if isinstance(found, Mapping):
        said = checkpoint.architectures
        if len(said) != 1 or said[0] not in found:
            raise FamilyError(
                f"{checkpoint / CONFIG}: 'architectures': expected one of {sorted(found)}, got {list(said)!s:.200}; "
                "this part of the model is not supported"
            )
        return found[said[0]]
    if found is None and lerobot:
        raise FamilyError(
            f"{checkpoint / CONFIG}: 'type': expected a LeRobot policy among {sorted(LEROBOT)}, got {kind!r:.80}; "
            f"{_nearest(kind)}: train one of these, see docs/lerobot.md"
        )
    if found is None:
        close = difflib.get_close_matches(str(kind), list(FAMILIES), n=1)
        nearest = f"nearest is {close[0]!r}; " if close else ""
        raise FamilyError(
            f"{checkpoint / CONFIG}: expected a model_type among {sorted({**FAMILIES, **LEROBOT})}, got {kind!r:.80}; "
            f"{nearest}write an adapter in edgevlm_export/families for it, or check that this is the right checkpoint "
            "(docs/families.md)"
        )
    return found
