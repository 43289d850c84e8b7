"""Gemm with a bias -> MatMul and Add.

ONNX Runtime runs a quantized Gemm in integers only with an int32 bias, which TensorRT refuses. With the bias apart both
run the product in integers, and TensorRT fuses the Add itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper, numpy_helper


def split_gemm(model: onnx.ModelProto, nodes: Collection[str]) -> None:
    """Split the Gemms of these names, in place; one that scales, or turns what enters it, stays as it is."""
    graph = model.graph
    weights = {item.name: item for item in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    split: list[onnx.NodeProto] = []
    for node in graph.node:
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA")
        if node.op_type != "Gemm" or node.name not in nodes or len(node.input) < 3 or not plain:
            split.append(node)
            continue
        weight = node.input[1]
        if attributes.get("transB"):
            weight = _columns(graph, weights, weight, alone=readers[weight] == 1)
        product = f"{node.output[0]}.product"
        split.append(helper.make_node("MatMul", [node.input[0], weight], [product], node.name))
        split.append(helper.make_node("Add", [product, node.input[2]], list(node.output), f"{node.name}/bias"))
    del graph.node[:]
    graph.node.extend(split)


def _columns(graph: onnx.GraphProto, weights: dict[str, onnx.TensorProto], name: str, alone: bool) -> str:
    """The weight with one column for each output: in its own place where nobody else reads it, otherwise a new one."""
    turned = name if alone else f"{name}.columns"
    if alone or turned not in weights:
        values = np.ascontiguousarray(numpy_helper.to_array(weights[name]).T)
        if not alone:
            weights[turned] = graph.initializer.add()
        weights[turned].CopyFrom(numpy_helper.from_array(values, turned))
    return turned
