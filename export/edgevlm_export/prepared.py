"""A checkpoint whose files fit each other, before its weights are loaded: what can be refused without them, is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgevlm.manifest.contract import Contract
from edgevlm.manifest.schema import Task
from edgevlm_export.stage_graph import StageGraph

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Room:
    """How many tokens a model reads.

    Attributes:
        count: (a text, the size of the picture shown with it) -> tokens; may raise an EdgevlmError.
        most: tokens, of which `answer` must stay free.
        raised_by: the option that gives more room; None where the model has no more.
        tiles: how many a picture of this size becomes.
    """

    count: Callable[[str, Size], int]
    most: int
    answer: int = 0
    raised_by: str | None = None
    tiles: Callable[[Size], int] = lambda size: 1


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What an adapter knows of a checkpoint from its small files.

    Attributes:
        load: reads the weights and cuts the model into stages.
        room: of a model of texts or prompts.
        contract: of a policy; `tokenizer` is the file of its words, if it takes any.
        regions: of a scorer: fewest and most regions, and the width of their features.
    """

    task: Task
    load: Callable[[], StageGraph]
    room: Room | None = None
    contract: Contract | None = None
    tokenizer: Path | None = None
    regions: tuple[int, int, int] | None = None
