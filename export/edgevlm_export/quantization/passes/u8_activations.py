"""TensorRT's form -> the form that x86 CPUs run fast, with bit-equal results.

1. Activation zero points int8 0 become uint8 128: the same numbers, another code (weights stay int8).
2. A ReLU between an operator and its QuantizeLinear moves behind it, as a Clip of the codes at 128. Rounding is
   monotonic and 0 is code 128, so `quantize(relu(x)) == max(quantize(x), 128)` for every x. The operator is then
   directly followed by a QuantizeLinear, which is what ONNX Runtime fuses to integer kernels.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgevlm_calibration.onnx_models import check_model

ZERO = 128
FLOOR = "relu.floor"


def u8_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """The CPU form of an int8 graph; `model` is left as it was."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    zeros = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    for item in graph.initializer:
        if item.name in zeros:
            item.CopyFrom(numpy_helper.from_array(np.array(ZERO, np.uint8), item.name))
    _move_relus(graph)
    check_model(result)
    return result


def _move_relus(graph: onnx.GraphProto) -> None:
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(value.name for value in graph.output)
    relus = {node.output[0]: node for node in graph.node if node.op_type == "Relu"}
    nodes: list[onnx.NodeProto] = []
    moved: set[str] = set()
    for node in graph.node:
        nodes.append(node)
        relu = relus.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if relu is None or reads[relu.output[0]] != 1:
            continue
        moved.add(relu.name)
        codes = node.output[0]
        node.input[0], node.output[0] = relu.input[0], f"{codes}.signed"
        nodes.append(helper.make_node("Clip", [node.output[0], FLOOR], [codes], relu.name))
    if moved:
        graph.initializer.append(numpy_helper.from_array(np.array(ZERO, np.uint8), FLOOR))
    del graph.node[:]
    graph.node.extend(node for node in nodes if node.op_type != "Relu" or node.name not in moved)
