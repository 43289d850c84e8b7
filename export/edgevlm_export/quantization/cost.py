"""What a precision may cost a stage: its outputs against those of its fp32 form, on recorded inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevlm.manifest.schema import PortKind
from edgevlm_export.fidelity.metrics import centred_cosine, cosine, without_common
from edgevlm_export.quantization.base import StageArtifact, outputs_of, single_file
from edgevlm_export.stage_graph import Stage

COSINE = 0.99  # every output of a quantized stage must keep this with its fp32 form, at worst, or the stage stays fp32
FEW = 8  # numbers that have no direction of their own: near 0 the smallest error turns them around
# Whose meaning is in how they vary: their usual value may be so large that a cosine hardly sees the rest.
CENTRED: frozenset[PortKind] = frozenset({"scores", "boxes", "shift", "scale", "objectness"})

Inputs = Sequence[Mapping[str, NDArray[Any]]]  # of a stage, run by run
Arrays = list[NDArray[np.float64]]


def keep_or_fp32(stage: Stage, model: onnx.ModelProto, artifact: StageArtifact, inputs: Inputs) -> StageArtifact:
    """`artifact` where every output keeps COSINE, else the stage in fp32 with what the precision would have cost."""
    kinds = {port.name: port.kind for port in stage.outputs}
    worst = worst_cosine(model, artifact.model("cpu"), inputs, kinds)
    name, least = min(worst.items(), key=lambda item: item[1])
    if least >= COSINE:
        return replace(artifact, cosine=least)
    reason = (
        f"{artifact.precision} would change {name!r} too much: worst cosine {least:.4f} over {len(inputs)} runs, "
        f"{COSINE} is asked for; kept in fp32"
    )
    return single_file(stage.name, model, "fp32", reason)


def worst_cosine(
    reference: onnx.ModelProto, small: onnx.ModelProto, inputs: Inputs, kinds: Mapping[str, PortKind] | None = None
) -> Mapping[str, float]:
    """output -> the worst cosine between two forms of a stage.

    Run by run; of a few numbers, such as yes and no, over all runs. An output of the CENTRED `kinds` must also keep
    what varies over the runs, and of scores only what sets the columns apart counts.
    """
    names, known = [value.name for value in reference.graph.output], kinds or {}
    pairs = zip(outputs_of(reference, inputs, names), outputs_of(small, inputs, names), strict=True)
    runs = [(_floats(left), _floats(right)) for left, right in pairs]
    return {
        name: _cosine([left[i] for left, _ in runs], [right[i] for _, right in runs], known.get(name))
        for i, name in enumerate(names)
    }


def _cosine(ones: Arrays, others: Arrays, kind: PortKind | None) -> float:
    if kind == "scores":
        ones, others = ([without_common(one) for one in side] for side in (ones, others))
    few = ones[0].size < FEW
    worst = cosine(np.stack(ones), np.stack(others)) if few else min(map(cosine, ones, others))
    alike = len({one.shape for one in ones}) == 1
    return min(worst, centred_cosine(np.stack(others), np.stack(ones))) if kind in CENTRED and alike else worst


def _floats(values: Sequence[Any]) -> Arrays:
    return [np.asarray(value, np.float64) for value in values]
