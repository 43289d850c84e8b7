"""A chat: calibrated on pictures and questions, judged by its logits and its words on held-out ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.errors import CalibrationError
from edgevlm_calibration.chat import calibrate_chat, record
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.sources import PictureData, make_up_pictures, open_pictures
from edgevlm_calibration.table import Table
from edgevlm_export.conversation import OriginalTalker, compare_chat
from edgevlm_export.courses.base import Beside, ExportOptions, Models
from edgevlm_export.figures import cosine
from edgevlm_export.passes.equalize import equalize, evened
from edgevlm_export.passes.peaks import peaks
from edgevlm_export.passes.u8_activations import u8_activations
from edgevlm_export.stage_graph import ChatGraph, Stage
from edgevlm_export.stages import Made, float_stage, int8_stage, outputs_of, quantized_stage

COSINE = 0.99  # every output of an int8 stage must keep this with its fp32 form, at worst, or the stage stays fp32
PROBES = 6  # prompts whose runs decide it, from the calibration part

Feeds = list[dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class ChatCourse:
    """See `Course`; `feeds` is what the stages were given in fp32, which evening out does not change."""

    graph: ChatGraph
    data: PictureData
    feeds: dict[str, Feeds] = field(default_factory=dict)

    @classmethod
    def open(cls, graph: ChatGraph, options: ExportOptions) -> ChatCourse:
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
        """The rule for prompts."""
        return {"prompt": self.graph.prompt}

    def before_int8(self, models: Models, fp32: Beside, progress: Progress) -> Models:
        """Every stage with the outlier channels of its normalizations evened out."""
        with fp32(models) as bundle:
            self.feeds.update(record(bundle, self.data, PROBES))
        made = {}
        for done, (name, model) in enumerate(models.items()):
            progress("even channels", done, len(models))
            made[name] = equalize(model, peaks(model, evened(model), self.feeds[name]))
        progress("even channels", len(models), len(models))
        return made

    def table(self, bundle: Bundle, progress: Progress) -> Table:
        """Ranges from the calibration pictures and texts."""
        return calibrate_chat(bundle, self.data, progress)

    def int8(self, stage: Stage, model: onnx.ModelProto, table: Table) -> Made:
        """int8 where it keeps all that the stage puts out, else fp32 with what int8 would have cost."""
        quantized = quantized_stage(stage, model, table)
        worst = worst_cosine(model, u8_activations(quantized.model), self.feeds[stage.name])
        name, least = min(worst.items(), key=lambda item: item[1])
        if least >= COSINE:
            return int8_stage(stage, quantized)
        reason = (
            f"int8 would change {name!r} too much: worst cosine {least:.4f} over {len(self.feeds[stage.name])} runs of "
            f"the calibration part, {COSINE} is asked for; kept in fp32"
        )
        return float_stage(stage, model, "fp32", reason)

    def judge(self, bundle: Bundle, progress: Progress) -> dict[str, Any]:
        """Logits and words beside the original's."""
        return compare_chat(bundle, OriginalTalker(self.graph), self.data, progress)


def worst_cosine(whole: onnx.ModelProto, small: onnx.ModelProto, feeds: Feeds) -> Mapping[str, float]:
    """output -> the worst cosine between two forms of a stage."""
    names = [value.name for value in whole.graph.output]
    worst = dict.fromkeys(names, 1.0)
    for left, right in zip(outputs_of(whole, feeds, names), outputs_of(small, feeds, names), strict=True):
        for name, one, other in zip(names, left, right, strict=True):
            worst[name] = min(worst[name], cosine(np.asarray(one), np.asarray(other)))
    return worst
