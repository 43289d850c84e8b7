"""A chain of pieces -> one ONNX graph: each kind of piece is traced once, and put in once for every piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from edgevlm.errors import FamilyError
from edgevlm.manifest.schema import Port
from edgevlm_export.stage_graph import Stage
from edgevlm_export.tracing.repeated_layers import Chain, Piece, WithWeights

OPSET, IR = 18, 10
ELEMENTS = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}


@dataclass(frozen=True)
class _Traced:
    """One kind: its graph, whose first inputs are the weights of these names."""

    graph: onnx.GraphProto
    weights: tuple[str, ...]
    shapes: Mapping[str, torch.Size]


def stitch(stage: Stage, chain: Chain) -> onnx.ModelProto:
    """The graph of `chain`, with the ports of `stage`.

    Raises:
        FamilyError: pieces of one kind have weights of different shapes, or the examples do not differ enough.
    """
    with torch.no_grad():
        small, large = (chain.tensors(example) for example in chain.examples)
    kinds: dict[str, _Traced] = {}
    graph = onnx.GraphProto(name="stage")
    for piece in chain.pieces:
        if piece.kind not in kinds:
            kinds[piece.kind] = _trace_kind(piece, small, large)
        _put(graph, piece, kinds[piece.kind])
    graph.input.extend(_value(port) for port in stage.inputs)
    graph.output.extend(_value(port) for port in stage.outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


def _trace_kind(piece: Piece, small: Mapping[str, Tensor], large: Mapping[str, Tensor]) -> _Traced:
    module = WithWeights(piece.module)
    state = piece.module.state_dict()
    free = torch.export.Dim.DYNAMIC
    inputs = [large[name] for name in piece.inputs]
    moving = [
        {i: free for i, (a, b) in enumerate(zip(small[name].shape, large[name].shape, strict=True)) if a != b}
        for name in piece.inputs
    ]
    program = torch.onnx.export(
        module.eval(),
        (*state.values(), *inputs),
        dynamo=True,
        opset_version=OPSET,
        input_names=[*(f"weight.{name}" for name in state), *piece.inputs],
        output_names=list(piece.outputs),
        dynamic_shapes=((*({} for _ in state), *moving),),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    if len(model.functions):
        raise FamilyError(f"piece {piece.kind!r}: the tracer left functions {[one.name for one in model.functions]}")
    return _Traced(model.graph, tuple(state), {name: value.shape for name, value in state.items()})


def _put(graph: onnx.GraphProto, piece: Piece, traced: _Traced) -> None:
    """Append the nodes of one piece, its tensors renamed and its own weights in place."""
    state = piece.module.state_dict()
    if {name: value.shape for name, value in state.items()} != traced.shapes:
        raise FamilyError(f"piece {piece.name!r}: expected the weights of every {piece.kind!r}, it has others")
    names = dict(zip((value.name for value in traced.graph.input), _called(piece, traced), strict=True))
    names.update(zip((value.name for value in traced.graph.output), piece.outputs, strict=True))
    known = {f"{piece.name}/{name}": value.numpy() for name, value in state.items()}
    known.update((f"{piece.name}/{item.name}", numpy_helper.to_array(item)) for item in traced.graph.initializer)
    nodes = []
    for original in traced.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for side in (node.input, node.output):
            for place, name in enumerate(list(side)):
                side[place] = name and names.get(name, f"{piece.name}/{name}")
        node.name = f"{piece.name}/{original.name}"
        if not _fold(node, known):
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    graph.node.extend(nodes)
    graph.initializer.extend(_constants(known, used))


def _called(piece: Piece, traced: _Traced) -> tuple[str, ...]:
    return (*(f"{piece.name}/{name}" for name in traced.weights), *piece.inputs)


def _fold(node: onnx.NodeProto, known: dict[str, NDArray[Any]]) -> bool:
    """Compute a node that depends on weights alone, such as the transposition of a matrix."""
    if not all(name in known for name in node.input if name) or not node.input or len(node.output) != 1:
        return False
    if node.op_type == "Transpose":
        order = next((list(item.ints) for item in node.attribute if item.name == "perm"), None)
        known[node.output[0]] = known[node.input[0]].transpose(order)
        return True
    found: Any = ReferenceEvaluator(node).run(None, {name: known[name] for name in node.input if name})
    known[node.output[0]] = np.asarray(found[0])
    return True


def _constants(known: Mapping[str, NDArray[Any]], used: set[str]) -> Iterator[onnx.TensorProto]:
    for name, value in known.items():
        if name in used:
            yield numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)


def _value(port: Port) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(port.name, ELEMENTS[port.dtype], list(port.shape))
