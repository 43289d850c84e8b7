"""What recipes of models of pictures and words share: data, recorded inputs, what a precision may cost a stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar, cast

import onnx

from edgevlm.bundle import Bundle
from edgevlm.data.pictures import FEWEST, PictureData, make_up_pictures, open_pictures
from edgevlm.errors import CalibrationError
from edgevlm_calibration.hooks import Feeds
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.runner import CalibrationRun, calibrate_on, record
from edgevlm_calibration.table import Table
from edgevlm_export.prepared import Prepared
from edgevlm_export.quantization.base import Models, Quantizer, StageArtifact
from edgevlm_export.quantization.cost import keep_or_fp32
from edgevlm_export.recipes.base import BundleOf, ExportOptions
from edgevlm_export.recipes.fitting import Read, fitting, texts_alone
from edgevlm_export.stage_graph import Stage, StageGraph

Graph = TypeVar("Graph", bound=StageGraph)


@dataclass(frozen=True)
class PictureRecipe(ABC, Generic[Graph]):
    """See `Recipe`; `feeds` are the inputs of the stages in fp32, which no preparation changes."""

    takes: ClassVar[str] = "FOLDER-OF-PICTURES"

    graph: Graph
    data: PictureData
    feeds: Feeds = field(default_factory=dict)

    @classmethod
    def open(cls, prepared: Prepared, options: ExportOptions) -> PictureRecipe[Graph]:
        """Raises CalibrationError and FamilyError, before the weights are loaded."""
        if options.topics is not None or options.stamps != "header":
            raise CalibrationError(
                f"--topics and --stamps belong to a robot's recording; this model takes --calib {cls.takes}"
            )
        if options.calibration is not None and options.samples < FEWEST:
            raise CalibrationError(
                f"--samples: expected at least {FEWEST}, got {options.samples}; give more, or leave it out"
            )
        data = cls.read(prepared, options)
        data = fitting(data, prepared.room, options, cls.reads(data, options))
        return cls(cast(Graph, prepared.load()), data)

    @classmethod
    def read(cls, prepared: Prepared, options: ExportOptions) -> PictureData:
        """The data. Raises CalibrationError."""
        if options.calibration is None:
            return make_up_pictures(options.texts)
        return open_pictures(options.calibration, options.texts, options.samples)

    @classmethod
    def reads(cls, data: PictureData, options: ExportOptions) -> Iterable[Read]:
        """What the model will read of the data: every text by itself."""
        return texts_alone(data)

    @property
    @abstractmethod
    def run(self) -> CalibrationRun[Any, PictureData]:
        """How the model runs over what calibrates it."""

    @property
    @abstractmethod
    def probe(self) -> tuple[CalibrationRun[Any, PictureData], int]:
        """The same for what a precision is measured on, and how many samples that takes."""

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """What only this task's manifest has."""

    @abstractmethod
    def judge(self, bundle: Bundle, progress: Progress) -> dict[str, Any]:
        """The figures of a bundle against the original on held-out pictures."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """A picture that cannot be read stops the export, so none."""
        return ()

    def pre_quantize(self, quantizer: Quantizer, models: Models, fp32: BundleOf, progress: Progress) -> Models:
        """On a few calibration pictures and texts."""
        run, samples = self.probe
        with fp32(models) as bundle:
            self.feeds.update(record(bundle, self.data, run, samples))
        return quantizer.prepare(models, self.feeds, progress)

    def table(self, bundle: Bundle, progress: Progress) -> Table:
        """Ranges from the calibration pictures and texts."""
        return calibrate_on(bundle, self.data, self.run, progress=progress)

    def check(
        self, stage: Stage, model: onnx.ModelProto, artifact: StageArtifact, table: Table | None
    ) -> StageArtifact:
        """By all that the stage puts out."""
        return keep_or_fp32(stage, model, artifact, self.feeds[stage.name])
