"""int8: fp32 graph + calibration table -> int8 graph (QDQ), in the form TensorRT takes, and in the CPU's.

Symmetric int8 activations, symmetric per-channel int8 weights, floating-point biases, zero points all zero:
TensorRT refuses anything else. Every activation gets one QuantizeLinear/DequantizeLinear pair and all its readers
read behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgevlm.errors import CalibrationError, QuantizationError
from edgevlm_calibration.hooks import Feeds
from edgevlm_calibration.onnx_models import check_model, drop_unused
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.quantizable_nodes import QuantizableNode, quantizable_nodes, tensors
from edgevlm_calibration.table import Table
from edgevlm_export.quantization.base import Models, Quantizer, StageArtifact
from edgevlm_export.quantization.passes.channel_max import channel_max
from edgevlm_export.quantization.passes.smooth import smooth, smoothed
from edgevlm_export.quantization.passes.split_gemm import split_gemm
from edgevlm_export.quantization.passes.u8_activations import u8_activations
from edgevlm_export.stage_graph import Stage

INT8_MAX = 127


class Int8(Quantizer):
    """Symmetric int8 in the ranges of a table."""

    precision = "int8"
    needs_table = True
    measured = True

    def prepare(self, models: Models, feeds: Feeds, progress: Progress) -> Models:
        """Every stage with the outlier channels of its normalizations evened out."""
        even = {}
        for done, (name, model) in enumerate(models.items()):
            progress("even channels", done, len(models))
            even[name] = smooth(model, channel_max(model, smoothed(model), feeds[name]))
        progress("even channels", len(models), len(models))
        return even

    def quantize(self, stage: Stage, model: onnx.ModelProto, table: Table | None) -> StageArtifact:
        """Both forms. Raises as the function `quantize` does."""
        assert table is not None
        quantized = quantize(stage.name, model, table.thresholds(stage.name), stage.quant_exclude)
        trt, cpu = f"{stage.name}.tensorrt.onnx", f"{stage.name}.cpu.onnx"
        files = {trt: quantized.model, cpu: u8_activations(quantized.model)}
        return StageArtifact(files, {"tensorrt": trt, "cpu": cpu}, self.precision, quantized_nodes=quantized.nodes)


@dataclass(frozen=True)
class Quantized:
    """An int8 graph and how many nodes of it compute in int8."""

    model: onnx.ModelProto
    nodes: int


def quantize(
    stage: str, model: onnx.ModelProto, thresholds: Mapping[str, float], exclude: Sequence[str] = ()
) -> Quantized:
    """The int8 form of one stage; `model` is left as it was.

    Args:
        thresholds: tensor -> largest magnitude that int8 must hold, from the calibration table.
        exclude: weights whose nodes stay in fp32.

    Raises:
        CalibrationError: a tensor to be quantized has no threshold: the table is of another model.
        QuantizationError: there is nothing to quantize.
    """
    nodes = quantizable_nodes(model, exclude)
    if not nodes:
        ops = sorted({node.op_type for node in model.graph.node})
        raise QuantizationError(
            f"stage {stage!r}: expected a Conv, Gemm or MatMul with a constant weight, found none among {ops} "
            f"(excluded: {list(exclude)}); export it with --precision fp32"
        )
    if missing := [name for name in tensors(nodes) if name not in thresholds]:
        raise CalibrationError(
            f"stage {stage!r}: the calibration table has no threshold for {missing[:5]} ({len(missing)} in all); "
            "it belongs to another model: calibrate again"
        )
    result = onnx.ModelProto()
    result.CopyFrom(model)
    split_gemm(result, {target.node for target in nodes})
    writer = _Writer(result)
    for name in tensors(nodes):
        writer.activation(name, thresholds[name])
    for target in quantizable_nodes(result, exclude):
        writer.weight(target)
    writer.finish()
    check_model(result)
    return Quantized(result, len(nodes))


class _Writer:
    """Inserts QDQ pairs into one graph; nodes stay in topological order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._outputs = {value.name for value in model.graph.output}
        self._after: dict[str, list[onnx.NodeProto]] = {}  # tensor -> pair to insert behind its producer
        self._before: list[onnx.NodeProto] = []  # pairs of graph inputs and weights
        self._weights = {item.name: item for item in model.graph.initializer}
        self._done: dict[str, str] = {}

    def activation(self, name: str, threshold: float) -> None:
        scale, zero = f"{name}.scale", f"{name}.zero"
        self._constant(scale, np.array(threshold / INT8_MAX, np.float32))
        self._constant(zero, np.array(0, np.int8))
        leaves = name in self._outputs
        source, target = (f"{name}.float", name) if leaves else (name, f"{name}.dequantized")
        for node in self._graph.node:
            if leaves:
                _rename(node.output, name, source)
            else:
                _rename(node.input, name, target)
        self._after[source] = _pair(name, source, target, (scale, zero))

    def weight(self, target: QuantizableNode) -> None:
        if target.weight not in self._done:
            self._done[target.weight] = self._quantized_weight(target)
        node = next(node for node in self._graph.node if node.name == target.node)
        node.input[1] = self._done[target.weight]

    def _quantized_weight(self, target: QuantizableNode) -> str:
        name = target.weight
        values, scales = quantize_weight(numpy_helper.to_array(self._weights[name]), target.axis)
        self._constant(f"{name}.int8", values)
        self._constant(f"{name}.scale", scales)
        self._constant(f"{name}.zero", np.zeros(scales.shape, np.int8))
        inputs = [f"{name}.int8", f"{name}.scale", f"{name}.zero"]
        output = f"{name}.dequantized"
        self._before.append(
            helper.make_node("DequantizeLinear", inputs, [output], f"{name}/dequantize", axis=target.axis)
        )
        return output

    def finish(self) -> None:
        nodes = list(self._before)
        for value in self._graph.input:
            nodes += self._after.pop(value.name, [])
        for node in self._graph.node:
            nodes.append(node)
            for name in node.output:
                nodes += self._after.pop(name, [])
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        drop_unused(self._graph)

    def _constant(self, name: str, value: NDArray[np.generic]) -> None:
        self._graph.initializer.append(numpy_helper.from_array(value, name))


def quantize_weight(weight: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 in -127..127 and one scale for each channel along `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    peaks = np.abs(weight).max(axis=others)
    scales = np.where(peaks > 0, peaks / INT8_MAX, 1.0).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    values = np.clip(np.rint(weight / scales.reshape(shape)), -INT8_MAX, INT8_MAX).astype(np.int8)
    return values, scales


def _pair(name: str, source: str, target: str, parameters: tuple[str, str]) -> list[onnx.NodeProto]:
    between = f"{name}.int8"
    return [
        helper.make_node("QuantizeLinear", [source, *parameters], [between], f"{name}/quantize"),
        helper.make_node("DequantizeLinear", [between, *parameters], [target], f"{name}/dequantize"),
    ]


def _rename(names: object, old: str, new: str) -> None:
    for i, name in enumerate(names):  # type: ignore[arg-type, var-annotated]
        if name == old:
            names[i] = new  # type: ignore[index]
