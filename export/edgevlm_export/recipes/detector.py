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
from edgevlm_export.quantization.base import StageArtifact, outputs_of, single_file
from edgevlm_export.recipes.pictures import PictureRecipe
from edgevlm_export.stage_graph import DetectorGraph, Stage

# How much a quantized stage's boxes must overlap its fp32 form's, or it stays fp32: on average, and 19 of 20 boxes.
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

    def check(
        self, stage: Stage, model: onnx.ModelProto, artifact: StageArtifact, table: Table | None
    ) -> StageArtifact:
        """Also by the places of the boxes: their cosine hardly sees a small box move."""
        checked = super().check(stage, model, artifact, table)
        boxes = [port.name for port in stage.outputs if port.kind == "boxes"]
        if checked.reason or not boxes:
            return checked
        feeds = self.feeds[stage.name]
        pairs = zip(outputs_of(model, feeds, boxes), outputs_of(artifact.model("cpu"), feeds, boxes), strict=True)
        shared = np.concatenate([overlaps(one[0][0], other[0][0]) for one, other in pairs])
        mean, worst = float(shared.mean()), float(np.percentile(shared, 5))
        if mean >= IOU and worst >= IOU_WORST:
            return checked
        reason = (
            f"{artifact.precision} would move the boxes too far: mean overlap (IoU) {mean:.4f} and {worst:.4f} at the "
            f"5th percentile over {len(feeds)} runs of the calibration part, {IOU} and {IOU_WORST} are asked for; kept "
            "in fp32"
        )
        return single_file(stage.name, model, "fp32", reason)

    def judge(self, bundle: Bundle, progress: Progress) -> dict[str, Any]:
        """Logits and boxes beside the original's."""
        return compare_detector(bundle, OriginalDetector(self.graph), self.data, progress)
