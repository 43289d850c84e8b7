"""A retriever: calibrated on pictures and texts, judged by embeddings, logits and scores on held-out ones."""

from __future__ import annotations

from typing import Any

from edgevlm.bundle import Bundle
from edgevlm.data.pictures import PictureData
from edgevlm.manifest.schema import CrossSpec
from edgevlm.tasks import Retriever
from edgevlm_calibration.pictures import MATCHER, RETRIEVER
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.runner import CalibrationRun
from edgevlm_export.fidelity.retriever import OriginalRetriever, compare_retriever
from edgevlm_export.recipes.pictures import PictureRecipe
from edgevlm_export.stage_graph import RetrieverGraph


class RetrieverRecipe(PictureRecipe[RetrieverGraph]):
    """See `Recipe`."""

    @property
    def run(self) -> CalibrationRun[Retriever, PictureData]:
        """Each picture and each text by itself, or in pairs."""
        return MATCHER if isinstance(self.graph.driver, CrossSpec) else RETRIEVER

    @property
    def probe(self) -> tuple[CalibrationRun[Retriever, PictureData], int]:
        """So many of each."""
        return self.run, 16

    def parts(self) -> dict[str, Any]:
        """The rule for texts."""
        return {"text": self.graph.text}

    def judge(self, bundle: Bundle, progress: Progress) -> dict[str, Any]:
        """Embeddings, logits and scores beside the original's."""
        return compare_retriever(bundle, OriginalRetriever(self.graph), self.data, progress)
