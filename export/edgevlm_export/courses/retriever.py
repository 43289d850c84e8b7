"""A retriever: calibrated on pictures and texts, judged by embeddings, logits and scores on held-out ones."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.errors import CalibrationError
from edgevlm.manifest import PICTURE
from edgevlm.preprocess import PicturePreprocessor
from edgevlm.text import TextEncoder
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.retrieval import calibrate_retriever
from edgevlm_calibration.sources import PictureData, make_up_pictures, open_pictures
from edgevlm_calibration.table import Table
from edgevlm_export.courses.base import Beside, ExportOptions, Models
from edgevlm_export.figures import cosine
from edgevlm_export.passes.equalize import equalize, evened
from edgevlm_export.passes.peaks import peaks
from edgevlm_export.passes.u8_activations import u8_activations
from edgevlm_export.retrieval import OriginalRetriever, compare_retriever
from edgevlm_export.stage_graph import RetrieverGraph, Stage
from edgevlm_export.stages import Made, float_stage, int8_stage, outputs, quantized_stage

COSINE = 0.99  # an int8 stage must keep this with its fp32 form, at worst, or it stays in fp32
PROBES = 16  # inputs of each stage that this is measured on, from the calibration part

Feeds = list[dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class RetrieverCourse:
    """See `Course`."""

    graph: RetrieverGraph
    data: PictureData

    @classmethod
    def open(cls, graph: RetrieverGraph, options: ExportOptions) -> RetrieverCourse:
        """Raises CalibrationError."""
        if options.topics is not None:
            raise CalibrationError(
                "--topics belongs to a robot's recording; this model takes --calib FOLDER-OF-PICTURES"
            )
        if options.calibration is None:
            return cls(graph, make_up_pictures(options.texts))
        return cls(graph, open_pictures(options.calibration, options.texts, options.samples))

    @property
    def warnings(self) -> tuple[str, ...]:
        """A picture that cannot be read stops the export, so none."""
        return ()

    def parts(self) -> dict[str, Any]:
        """The rule for texts."""
        return {"text": self.graph.text}

    def before_int8(self, models: Models, fp32: Beside, progress: Progress) -> Models:
        """Every stage with the outlier channels of its normalizations evened out."""
        made = {}
        for done, (name, model) in enumerate(models.items()):
            progress("even channels", done, len(models))
            feeds = self._feeds(self.graph.stage(name))
            made[name] = equalize(model, peaks(model, evened(model), feeds))
        progress("even channels", len(models), len(models))
        return made

    def table(self, bundle: Bundle, progress: Progress) -> Table:
        """Ranges from the calibration pictures and texts."""
        return calibrate_retriever(bundle, self.data, progress)

    def int8(self, stage: Stage, model: onnx.ModelProto, table: Table) -> Made:
        """int8 where it keeps the stage's output, else fp32 with what int8 would have cost."""
        quantized = quantized_stage(stage, model, table)
        feeds = self._feeds(stage)
        pairs = zip(outputs(model, feeds), outputs(u8_activations(quantized.model), feeds), strict=True)
        worst = min(cosine(whole, small) for whole, small in pairs)
        if worst >= COSINE:
            return int8_stage(stage, quantized)
        reason = (
            f"int8 would change its output too much: worst cosine {worst:.4f} over {len(feeds)} calibration inputs, "
            f"{COSINE} is asked for; kept in fp32"
        )
        return float_stage(stage, model, "fp32", reason)

    def judge(self, bundle: Bundle, progress: Progress) -> dict[str, Any]:
        """Embeddings, logits and scores beside the original's."""
        return compare_retriever(bundle, OriginalRetriever(self.graph), self.data, progress)

    def _feeds(self, stage: Stage) -> Feeds:
        """Inputs that this stage would get for some of the calibration part."""
        kinds = {port.kind: port.name for port in stage.inputs}
        if "pixels" in kinds:
            prepare = PicturePreprocessor(self.graph.preprocess[PICTURE])
            return [{kinds["pixels"]: prepare(photo.load())} for photo in self.data.calibration[:PROBES]]
        with _tokenizer(self.graph) as path:
            encoder = TextEncoder(path, self.graph.text)
            pairs = [encoder.encode(text) for text in self.data.calibration_texts[:PROBES]]
        given: Feeds = [{"ids": np.array(ids), "mask": np.array(mask)} for ids, mask in pairs]
        return [{kinds[kind]: value for kind, value in one.items() if kind in kinds} for one in given]


@contextmanager
def _tokenizer(graph: RetrieverGraph) -> Iterator[Path]:
    """The tokenizer as a file."""
    if isinstance(graph.tokenizer, Path):
        yield graph.tokenizer
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(graph.tokenizer, encoding="utf-8")
        yield path
