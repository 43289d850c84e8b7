"""What int8 may cost a stage: measured on what it was given, with the outlier channels of its norms evened out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevlm.manifest.schema import PortKind
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.table import Table
from edgevlm_export.fidelity.metrics import centred_cosine, cosine, without_common
from edgevlm_export.quantization.forms import StageArtifact, float_stage, int8_stage, outputs_of, quantized_stage
from edgevlm_export.quantization.passes.channel_max import channel_max
from edgevlm_export.quantization.passes.smooth import smooth, smoothed
from edgevlm_export.quantization.passes.u8_activations import u8_activations
from edgevlm_export.recipes.base import Models
from edgevlm_export.stage_graph import Stage

COSINE = 0.99  # every output of an int8 stage must keep this with its fp32 form, at worst, or the stage stays fp32
FEW = 8  # numbers that have no direction of their own: near 0 the smallest error turns them around
# Whose meaning is in how they vary: their usual value may be so large that a cosine hardly sees the rest.
CENTRED: frozenset[PortKind] = frozenset({"scores", "boxes", "shift", "scale", "objectness"})

Feeds = list[dict[str, NDArray[Any]]]
Arrays = list[NDArray[np.float64]]


def even_channels(models: Models, feeds: Mapping[str, Feeds], progress: Progress) -> Models:
    """Every stage with the outlier channels of its normalizations evened out."""
    made = {}
    for done, (name, model) in enumerate(models.items()):
        progress("even channels", done, len(models))
        made[name] = smooth(model, channel_max(model, smoothed(model), feeds[name]))
    progress("even channels", len(models), len(models))
    return made


def measured_int8(stage: Stage, model: onnx.ModelProto, table: Table, feeds: Feeds) -> StageArtifact:
    """int8 where it keeps all that the stage puts out, else fp32 with what int8 would have cost."""
    if stage.precision != "int8":
        return float_stage(stage, model, stage.precision, stage.reason)
    quantized = quantized_stage(stage, model, table)
    kinds = {port.name: port.kind for port in stage.outputs}
    worst = worst_cosine(model, u8_activations(quantized.model), feeds, kinds)
    name, least = min(worst.items(), key=lambda item: item[1])
    if least >= COSINE:
        return replace(int8_stage(stage, quantized), kept=least)
    reason = (
        f"int8 would change {name!r} too much: worst cosine {least:.4f} over {len(feeds)} runs, "
        f"{COSINE} is asked for; kept in fp32"
    )
    return float_stage(stage, model, "fp32", reason)


def worst_cosine(
    whole: onnx.ModelProto, small: onnx.ModelProto, feeds: Feeds, kinds: Mapping[str, PortKind] | None = None
) -> Mapping[str, float]:
    """output -> the worst cosine between two forms of a stage.

    Run by run; of a few numbers, such as yes and no, over all runs. An output of the CENTRED `kinds` must also keep
    what varies over the runs, and of scores only what sets the columns apart counts.
    """
    names, told = [value.name for value in whole.graph.output], kinds or {}
    pairs = zip(outputs_of(whole, feeds, names), outputs_of(small, feeds, names), strict=True)
    runs = [(_floats(left), _floats(right)) for left, right in pairs]
    return {
        name: _kept([left[i] for left, _ in runs], [right[i] for _, right in runs], told.get(name))
        for i, name in enumerate(names)
    }


def _kept(ones: Arrays, others: Arrays, kind: PortKind | None) -> float:
    if kind == "scores":
        ones, others = ([without_common(one) for one in side] for side in (ones, others))
    few = ones[0].size < FEW
    worst = cosine(np.stack(ones), np.stack(others)) if few else min(map(cosine, ones, others))
    alike = len({one.shape for one in ones}) == 1
    return min(worst, centred_cosine(np.stack(others), np.stack(ones))) if kind in CENTRED and alike else worst


def _floats(values: Sequence[Any]) -> Arrays:
    return [np.asarray(value, np.float64) for value in values]
