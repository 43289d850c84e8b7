"""Which nodes of a graph become int8, and so which tensors need a range: the one answer for calibration and export."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

# Operator -> position of the output channel in its weight; Gemm depends on transB.
QUANTIZED_OPS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class QuantizableNode:
    """A node whose weight is a constant. MatMuls of two activations are none.

    Attributes:
        activation: the tensor that enters it.
        weight: the constant; `axis` is its output channel.
        result: for Conv the tensor that leaves it, behind its ReLU if only a ReLU follows, else empty: engines run
            an integer convolution only between two quantized tensors, but integer products may end in floats.
    """

    node: str
    op: str
    activation: str
    weight: str
    axis: int
    result: str


def quantizable_nodes(model: onnx.ModelProto, exclude: Sequence[str] = ()) -> tuple[QuantizableNode, ...]:
    """The nodes to quantize, in graph order; `exclude` names weights that stay in floating point."""
    ranks = {item.name: len(item.dims) for item in model.graph.initializer if item.data_type == onnx.TensorProto.FLOAT}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    leaving = {value.name for value in model.graph.output}
    nodes = []
    for node in model.graph.node:
        if node.op_type not in QUANTIZED_OPS or node.input[1] not in ranks or node.input[1] in exclude:
            continue
        if node.input[0] in ranks or (node.op_type == "MatMul" and ranks[node.input[1]] != 2):
            continue
        result = _result(node, readers, leaving) if node.op_type == "Conv" else ""
        nodes.append(QuantizableNode(node.name, node.op_type, node.input[0], node.input[1], _axis(node), result))
    return tuple(nodes)


def tensors(nodes: Sequence[QuantizableNode]) -> tuple[str, ...]:
    """The activations that need a range, each once, in graph order."""
    names = [name for target in nodes for name in (target.activation, target.result) if name]
    return tuple(dict.fromkeys(names))


def _axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return 0 if transposed else 1
    return 1


def _result(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]], leaving: set[str]) -> str:
    after = readers[node.output[0]]
    if len(after) == 1 and after[0].op_type == "Relu" and node.output[0] not in leaving:
        return str(after[0].output[0])
    return str(node.output[0])
