"""The seam between what every export does and what a task does in its own way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnx

from edgevlm.bundle import Bundle
from edgevlm.manifest.schema import Precision
from edgevlm.rosmsg.state import Stamps
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.table import Table
from edgevlm_export.quantization.base import Models, Quantizer, StageArtifact
from edgevlm_export.stage_graph import Stage, StageGraph

BundleOf = Callable[[Models], AbstractContextManager[Bundle]]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What an export was asked for; see `exporter.export`."""

    precision: Precision
    calibration: Path | None
    topics: Path | None
    stamps: Stamps = "header"
    texts: Path | None
    samples: int


class Recipe(Protocol):
    """One export of one task, with its data at hand."""

    @property
    def graph(self) -> StageGraph: ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out of the data."""
        ...

    def parts(self) -> dict[str, Any]:
        """What only this task's manifest has."""
        ...

    def pre_quantize(self, quantizer: Quantizer, models: Models, fp32: BundleOf, progress: Progress) -> Models:
        """Record inputs of the stages with a bundle that `fp32` makes, then let the quantizer prepare the models.

        Called for a quantizer that is `measured`.
        """
        ...

    def table(self, bundle: Bundle, progress: Progress) -> Table:
        """Ranges of an fp32 bundle, from the calibration part of the data or the table at hand."""
        ...

    def check(
        self, stage: Stage, model: onnx.ModelProto, artifact: StageArtifact, table: Table | None
    ) -> StageArtifact:
        """What a `measured` quantizer made of a stage, or the stage in fp32 with the reason."""
        ...

    def judge(self, bundle: Bundle, progress: Progress) -> dict[str, Any]:
        """The figures of a bundle against the original on the part of the data that calibrated nothing."""
        ...
