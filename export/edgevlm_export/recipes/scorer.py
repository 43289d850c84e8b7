"""A scorer: calibrated on features of regions and texts, judged by its logits on held-out ones."""

from __future__ import annotations

from typing import Any, ClassVar

from edgevlm.bundle import Bundle
from edgevlm.data.pictures import PictureData
from edgevlm.data.regions import make_up_regions, open_regions
from edgevlm.tasks import Scorer
from edgevlm_calibration.pictures import SCORER
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.runner import CalibrationRun
from edgevlm_export.fidelity.scorer import OriginalScorer, compare_scorer
from edgevlm_export.prepared import Prepared
from edgevlm_export.recipes.base import ExportOptions
from edgevlm_export.recipes.pictures import PictureRecipe
from edgevlm_export.stage_graph import ScorerGraph


class ScorerRecipe(PictureRecipe[ScorerGraph]):
    """See `Recipe`; where other recipes have pictures, this one has features of their regions."""

    takes: ClassVar[str] = "FOLDER of .npy files"

    @classmethod
    def read(cls, prepared: Prepared, options: ExportOptions) -> PictureData:
        """Features of regions. Raises CalibrationError."""
        assert prepared.regions is not None
        if options.calibration is None:
            return make_up_regions(prepared.regions[2], options.texts)
        return open_regions(options.calibration, prepared.regions, options.texts, options.samples)

    @property
    def run(self) -> CalibrationRun[Scorer, PictureData]:
        """Each text and the features of each picture, in pairs."""
        return SCORER

    @property
    def probe(self) -> tuple[CalibrationRun[Scorer, PictureData], int]:
        """So many pairs."""
        return SCORER, 16

    def parts(self) -> dict[str, Any]:
        """The rule for texts, and what the columns are called."""
        return {"text": self.graph.text, "labels": self.graph.labels}

    def judge(self, bundle: Bundle, progress: Progress) -> dict[str, Any]:
        """Logits beside the original's."""
        return compare_scorer(bundle, OriginalScorer(self.graph), self.data, progress)
