"""A chat: calibrated on pictures and questions, judged by its logits and its words on held-out ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgevlm.bundle import Bundle
from edgevlm.data.pictures import PictureData
from edgevlm_calibration.chat import CHAT, CHAT_PROBE, Talk
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.runner import CalibrationRun
from edgevlm_export.fidelity.chat import OriginalTalker, compare_chat
from edgevlm_export.recipes.base import ExportOptions
from edgevlm_export.recipes.fitting import Read, paired_with_pictures
from edgevlm_export.recipes.pictures import PictureRecipe
from edgevlm_export.stage_graph import ChatGraph, TalkGraph


class ChatRecipe(PictureRecipe[TalkGraph]):
    """See `Recipe`."""

    @classmethod
    def reads(cls, data: PictureData, options: ExportOptions) -> Iterable[Read]:
        """Whole prompts, a picture in each."""
        return paired_with_pictures(data, options)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The branches of a chat template that are frozen in the bundle."""
        frozen = self.graph.frozen if isinstance(self.graph, ChatGraph) else ()
        if not frozen:
            return super().warnings
        return (f"chat template: frozen as without {', '.join(frozen)}; a name with a value is frozen at it",)

    @property
    def run(self) -> CalibrationRun[Talk, PictureData]:
        """Whole prompts and some words of each answer."""
        return CHAT

    @property
    def probe(self) -> tuple[CalibrationRun[Talk, PictureData], int]:
        """A few prompts: each is a run of the vision stage and several of the decoder."""
        return CHAT_PROBE, 6

    def parts(self) -> dict[str, Any]:
        """The rule for prompts or questions."""
        return self.graph.parts

    def judge(self, bundle: Bundle, progress: Progress) -> dict[str, Any]:
        """Logits and words beside the original's."""
        return compare_chat(bundle, OriginalTalker(self.graph), self.data, progress)
