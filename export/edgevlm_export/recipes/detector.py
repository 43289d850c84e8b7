"""A detector: calibrated on pictures and labels, judged by logits and boxes on held-out ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from edgevlm.bundle import Bundle
from edgevlm.data.pictures import PictureData
from edgevlm.tasks import Detector
from edgevlm_calibration.pictures import DETECTOR
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.runner import CalibrationRun
from edgevlm_calibration.table import Table
from edgevlm_export.fidelity.detector import OriginalDetector, compare_detector, overlaps
from edgevlm_export.quantization.forms import StageArtifact, float_stage, outputs_of
from edgevlm_export.recipes.pictures import PictureRecipe
from edgevlm_export.stage_graph import DetectorGraph, Stage

# How much an int8 stage's boxes must overlap those of its fp32 form, or it stays fp32: on average, and 19 of 20 boxes.
IOU, IOU_WORST = 0.85, 0.6


class DetectorRecipe(PictureRecipe[DetectorGraph]):
    """See `Recipe`."""

    @property
    def run(self) -> CalibrationRun[Detector, PictureData]:
        """A picture and a label at a time."""
        return DETECTOR

    @property
    def probe(self) -> tuple[CalibrationRun[Detector, PictureData], int]:
        """So many of these."""
        return DETECTOR, 16

    def parts(self) -> dict[str, Any]:
        """The rule for labels."""
        return {"text": self.graph.text}

    def int8(self, stage: Stage, model: onnx.ModelProto, table: Table) -> StageArtifact:
        """int8 where it also keeps the boxes in their places: their cosine hardly sees a small box move."""
        made = super().int8(stage, model, table)
        boxes = [port.name for port in stage.outputs if port.kind == "boxes"]
        if made.precision != "int8" or not boxes:
            return made
        feeds = self.feeds[stage.name]
        small = made.files[made.forms["cpu"]]
        pairs = zip(outputs_of(model, feeds, boxes), outputs_of(small, feeds, boxes), strict=True)
        shared = np.concatenate([overlaps(one[0][0], other[0][0]) for one, other in pairs])
        mean, worst = float(shared.mean()), float(np.percentile(shared, 5))
        if mean >= IOU and worst >= IOU_WORST:
            return made
        reason = (
            f"int8 would move the boxes too far: mean overlap (IoU) {mean:.4f} and {worst:.4f} at the 5th percentile "
            f"over {len(feeds)} runs of the calibration part, {IOU} and {IOU_WORST} are asked for; kept in fp32"
        )
        return float_stage(stage, model, "fp32", reason)

    def judge(self, bundle: Bundle, progress: Progress) -> dict[str, Any]:
        """Logits and boxes beside the original's."""
        return compare_detector(bundle, OriginalDetector(self.graph), self.data, progress)
