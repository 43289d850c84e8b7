"""One traced stage -> the files of its forms, in the precision asked for or the one it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevlm.errors import QuantizationError
from edgevlm.manifest.schema import Form, Precision
from edgevlm.options import RuntimeOptions
from edgevlm.text import Tokenizer
from edgevlm_calibration.onnx_models import open_model
from edgevlm_calibration.table import Split, Table
from edgevlm_export.fidelity.metrics import cosine
from edgevlm_export.quantization.passes.forbidden import check_tensorrt
from edgevlm_export.quantization.passes.fp16 import fp16
from edgevlm_export.quantization.passes.u8_activations import u8_activations
from edgevlm_export.quantization.qdq import Quantized, quantize
from edgevlm_export.stage_graph import PolicyGraph, Stage


@dataclass(frozen=True)
class StageArtifact:
    """A stage as it goes into the bundle: file name -> graph, form -> file name.

    Attributes:
        kept: the worst cosine of an int8 stage with its fp32 form; None where it was not measured.
    """

    files: Mapping[str, onnx.ModelProto]
    forms: Mapping[Form, str]
    precision: Precision
    reason: str = ""
    quantized_nodes: int = field(default=0)
    kept: float | None = None


def float_stage(stage: Stage, model: onnx.ModelProto, precision: Precision, reason: str = "") -> StageArtifact:
    """fp32 or fp16: one file for both forms.

    Raises:
        QuantizationError: TensorRT would refuse the graph, or there is nothing to convert.
    """
    kept = "fp32" if precision == "fp32" or stage.precision == "fp32" else "fp16"
    if kept == "fp16":
        model, _ = fp16(stage.name, model)
    check_tensorrt(stage.name, model)
    file = f"{stage.name}.onnx"
    why = reason or (stage.reason if kept != precision else "")
    return StageArtifact({file: model}, {"cpu": file, "tensorrt": file}, "fp32" if kept == "fp32" else "fp16", why)


def policy_int8_stage(graph: PolicyGraph, stage: Stage, model: onnx.ModelProto, table: Table) -> StageArtifact:
    """int8 in both forms, or fp32 with a measured reason where int8 gains nothing. Raises as `int8_stage` does."""
    if stage.precision != "int8":
        return float_stage(stage, model, stage.precision, stage.reason)
    quantized = quantized_stage(stage, model, table)
    if stage.frame_cache == "instruction" and {port.kind for port in stage.inputs} <= {"ids", "mask"}:
        return float_stage(stage, model, "fp32", _text_reason(graph, stage, model, quantized, table))
    return int8_stage(stage, quantized)


def quantized_stage(stage: Stage, model: onnx.ModelProto, table: Table) -> Quantized:
    """The int8 graph in TensorRT's form.

    Raises:
        CalibrationError: the table has no ranges for this stage.
        QuantizationError: nothing was quantized.
    """
    quantized = quantize(stage.name, model, table.thresholds(stage.name), stage.quant_exclude)
    if not quantized.nodes:
        raise QuantizationError(f"stage {stage.name!r}: expected quantized nodes, counted none; use --precision fp32")
    return quantized


def int8_stage(stage: Stage, quantized: Quantized) -> StageArtifact:
    """An int8 graph as the two forms of a bundle.

    Raises:
        QuantizationError: TensorRT would refuse the graph.
    """
    check_tensorrt(stage.name, quantized.model)
    files = {f"{stage.name}.tensorrt.onnx": quantized.model, f"{stage.name}.cpu.onnx": u8_activations(quantized.model)}
    forms: dict[Form, str] = {"tensorrt": f"{stage.name}.tensorrt.onnx", "cpu": f"{stage.name}.cpu.onnx"}
    return StageArtifact(files, forms, "int8", quantized_nodes=quantized.nodes)


def _text_reason(graph: PolicyGraph, stage: Stage, model: onnx.ModelProto, quantized: Quantized, table: Table) -> str:
    """What int8 would cost and gain in a stage that runs once per instruction: measured, not believed."""
    assert graph.tokenizer is not None and graph.contract.instruction is not None  # a stage of words reads words
    tokenizer = Tokenizer(graph.tokenizer, graph.contract.instruction)
    assert isinstance(table.split, Split)
    texts = sorted({episode.instruction for episode in table.split.calibration})
    kinds = {port.kind: port.name for port in stage.inputs}
    inputs: list[dict[str, NDArray[Any]]] = [
        {kinds["ids"]: ids, kinds["mask"]: mask} for ids, mask in (tokenizer.encode(text) for text in texts)
    ]
    pairs = zip(outputs(model, inputs), outputs(u8_activations(quantized.model), inputs), strict=True)
    worst = min(cosine(left, right) for left, right in pairs)
    runs = table.stage_runs.get(stage.name, 0)
    return (
        f"runs once per instruction: {runs} times in {table.samples} calibration steps, so int8 would save next to "
        f"nothing and change its output (worst cosine {worst:.5f} over {len(texts)} instructions)"
    )


def outputs(model: onnx.ModelProto, inputs: Sequence[Mapping[str, NDArray[Any]]]) -> list[NDArray[np.float32]]:
    """The first output for each of `inputs`, in ONNX Runtime on one thread."""
    return [values[0] for values in outputs_of(model, inputs, (model.graph.output[0].name,))]


def outputs_of(
    model: onnx.ModelProto, inputs: Sequence[Mapping[str, NDArray[Any]]], names: Sequence[str]
) -> Iterator[list[NDArray[Any]]]:
    """The outputs of these names for each of `inputs` in turn."""
    session = open_model(model, RuntimeOptions(intra_threads=1))
    for one in inputs:
        yield session.run(list(names), dict(one))
