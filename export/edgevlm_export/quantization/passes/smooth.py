"""Channels of a normalization that are far larger than the others, made even: the same function, kinder to int8.

One scale serves a whole activation, so a channel 64 times as large as the rest leaves the rest two bits. What a
normalization puts out is divided by a power of two for each channel, and the weights that read it are multiplied by
it: in floats nothing changes, not even the last bit. A normalization ends in a LayerNormalization, or in a product
with a vector (the root mean square kind, which has no operator of its own).

Source: Xiao et al., SmoothQuant (2022), strength 0.5; rounded to powers of two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgevlm_calibration.onnx_models import drop_unused

Readers = dict[str, list[onnx.NodeProto]]


def smoothed(model: onnx.ModelProto) -> tuple[str, ...]:
    """The tensors that `equalize` can even out: normalizations read by products with constant matrices alone."""
    readers = _readers(model)
    constants = {item.name: len(item.dims) for item in model.graph.initializer}
    leaving = {value.name for value in model.graph.output}
    return tuple(
        node.output[0]
        for node in model.graph.node
        if _scales(node, constants)
        and node.output[0] not in leaving
        and readers[node.output[0]]
        and all(_is_product(reader, node.output[0], constants) for reader in readers[node.output[0]])
    )


def smooth(model: onnx.ModelProto, peaks: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """A copy with every tensor of `peaks` (name -> largest magnitude of each channel) evened out."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    readers, constants = _readers(result), {item.name: item for item in result.graph.initializer}
    added: dict[str, onnx.TensorProto] = {}
    for node in result.graph.node:
        if node.output[0] not in peaks:
            continue
        products = readers[node.output[0]]
        weights = [_weight(one, constants) for one in products]
        oriented = [w.T if _transposed(one) else w for one, w in zip(products, weights, strict=True)]
        factors = _factors(peaks[node.output[0]], oriented)
        for place in _scales(node, {name: len(item.dims) for name, item in constants.items()}):
            value = numpy_helper.to_array(constants[node.input[place]]) / factors
            node.input[place] = _add(added, f"{node.output[0]}.even.{place}", value)
        for product, weight in zip(products, weights, strict=True):
            shaped = factors[None, :] if _transposed(product) else factors[:, None]
            product.input[1] = _add(added, f"{product.output[0]}.even", weight * shaped)
    result.graph.initializer.extend(added.values())
    drop_unused(result.graph)
    return result


def _scales(node: onnx.NodeProto, constants: Mapping[str, int]) -> tuple[int, ...]:
    """Which inputs of a normalization's last node hold a number for each channel; none where it is no such node."""
    if node.op_type == "LayerNormalization" and node.input[1] in constants:
        return tuple(range(1, len(node.input)))
    if node.op_type == "Mul":
        places = tuple(i for i, name in enumerate(node.input) if constants.get(name) == 1)
        return places if len(places) == 1 else ()
    return ()


def _factors(peaks: NDArray[Any], weights: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """For each channel a power of two; their median is 1. Each of `weights` is (in, out)."""
    rows = np.stack([np.abs(weight).max(axis=1) for weight in weights]).max(axis=0)
    alive = (peaks > 0) & (rows > 0)
    powers = np.zeros(peaks.size)
    powers[alive] = 0.5 * np.log2(peaks[alive].astype(np.float64) / rows[alive])
    if alive.any():
        powers[alive] -= np.median(powers[alive])
    factors: NDArray[np.float32] = np.exp2(np.rint(powers)).astype(np.float32)
    return factors


def _weight(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> NDArray[Any]:
    return numpy_helper.to_array(constants[node.input[1]])


def _add(added: dict[str, onnx.TensorProto], name: str, value: NDArray[Any]) -> str:
    added[name] = numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
    return name


def _readers(model: onnx.ModelProto) -> Readers:
    readers: Readers = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def _is_product(node: onnx.NodeProto, tensor: str, constants: Mapping[str, int]) -> bool:
    plain = node.op_type in ("MatMul", "Gemm") and node.input[0] == tensor and constants.get(node.input[1]) == 2
    return plain and not any(attribute.name == "transA" and attribute.i for attribute in node.attribute)


def _transposed(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
