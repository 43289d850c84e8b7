"""Write tests/support/stages/cross_*.onnx and scorer_head.onnx, as make_stages.py writes the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, checker, helper, numpy_helper, save_model

STAGES = Path(__file__).parent / "stages"
OPSET, IR = 17, 8  # as make_stages.py
WORDS, WIDTH, HEADS, PLACES, FEATURES, LABELS = 16, 6, 2, 16, 5, 3
LOOKED = {"image_key_0": (1, PLACES, HEADS, 3), "image_value_0": (1, PLACES, HEADS, 3)}
_random = np.random.default_rng(21)

Shapes = Mapping[str, Sequence[int | str]]
READ = [  # ids -> q (1, 6): the mean of the words' vectors, each bent by what came before it
    helper.make_node("Gather", ["table", "ids"], ["vectors"]),
    helper.make_node("CumSum", ["vectors", "one"], ["sofar"]),
    helper.make_node("Tanh", ["sofar"], ["bent"]),
    helper.make_node("ReduceMean", ["bent"], ["q"], axes=[1], keepdims=0),
]


def _weights(*shape: int) -> NDArray[np.float32]:
    return _random.normal(0.0, 0.8, shape).astype(np.float32)


def _write(
    name: str, nodes: Sequence[NodeProto], inputs: Shapes, outputs: Shapes, weights: Mapping[str, NDArray[Any]]
) -> None:
    def ports(shapes: Shapes) -> list[Any]:
        full = {port: TensorProto.INT64 if port == "ids" else TensorProto.FLOAT for port in shapes}
        return [helper.make_tensor_value_info(port, full[port], list(shape)) for port, shape in shapes.items()]

    tensors = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    graph = helper.make_graph(list(nodes), name, ports(inputs), ports(outputs), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    checker.check_model(model, full_check=True)
    save_model(model, STAGES / f"{name}.onnx")


def vision() -> None:
    """pixels (1, 3, 8, 8) -> a key and a value of each block, and an embedding (1, 6)."""
    nodes = [
        helper.make_node("Conv", ["pixels", "w"], ["blocks"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Relu", ["blocks"], ["seen"]),
        helper.make_node("Reshape", ["seen", "rows"], ["cut"]),
        helper.make_node("Transpose", ["cut"], ["states"], perm=[0, 2, 1]),
        helper.make_node("Flatten", ["seen"], ["flat"]),
        helper.make_node("MatMul", ["flat", "out"], ["image_embedding"]),
    ]
    for port in LOOKED:
        nodes.append(helper.make_node("MatMul", ["states", f"{port}_w"], [f"{port}_flat"]))
        nodes.append(helper.make_node("Reshape", [f"{port}_flat", "by_heads"], [port]))
    weights: dict[str, NDArray[Any]] = {"w": _weights(4, 3, 2, 2), "out": _weights(4 * PLACES, WIDTH)}
    weights |= {f"{port}_w": _weights(4, WIDTH) for port in LOOKED}
    weights |= {"rows": np.array([1, 4, PLACES]), "by_heads": np.array([1, PLACES, HEADS, 3])}
    pixels: Shapes = {"pixels": (1, 3, 8, 8)}
    _write("cross_vision", nodes, pixels, {**LOOKED, "image_embedding": (1, WIDTH)}, weights)
    without = [node for node in nodes if node.output[0] not in ("flat", "image_embedding")]
    _write("cross_vision_plain", without, pixels, LOOKED, {k: v for k, v in weights.items() if k != "out"})


def head() -> None:
    """ids (1, tokens), a key and a value -> scores (1, 2)."""
    nodes = [
        *READ,
        helper.make_node("Reshape", ["q", "by_heads"], ["asks"]),
        helper.make_node("Transpose", ["image_key_0"], ["keys"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["image_value_0"], ["values"], perm=[0, 2, 1, 3]),
        helper.make_node("MatMul", ["asks", "keys"], ["raw"]),
        helper.make_node("Softmax", ["raw"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "values"], ["found"]),
        helper.make_node("Reshape", ["found", "row"], ["flat"]),
        helper.make_node("Add", ["flat", "q"], ["both"]),
        helper.make_node("MatMul", ["both", "out"], ["scores"]),
    ]
    weights = {"table": _weights(WORDS, WIDTH), "one": np.array(1), "out": _weights(WIDTH, 2)}
    weights |= {"by_heads": np.array([1, HEADS, 1, 3]), "row": np.array([1, WIDTH])}
    _write("cross_head", nodes, {"ids": (1, "tokens"), **LOOKED}, {"scores": (1, 2)}, weights)


def scorer() -> None:
    """ids (1, tokens), features (1, regions, 5) -> scores (1, 3)."""
    nodes = [
        *READ,
        helper.make_node("MatMul", ["features", "w"], ["line"]),
        helper.make_node("Tanh", ["line"], ["regions_seen"]),
        helper.make_node("Reshape", ["q", "column"], ["asks"]),
        helper.make_node("MatMul", ["regions_seen", "asks"], ["raw"]),
        helper.make_node("Softmax", ["raw"], ["shares"], axis=1),
        helper.make_node("Mul", ["regions_seen", "shares"], ["parts"]),
        helper.make_node("ReduceSum", ["parts", "over"], ["found"], keepdims=0),
        helper.make_node("Concat", ["found", "q"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "out"], ["scores"]),
    ]
    weights = {"table": _weights(WORDS, WIDTH), "one": np.array(1), "w": _weights(FEATURES, WIDTH)}
    weights |= {"column": np.array([1, WIDTH, 1]), "over": np.array([1]), "out": _weights(2 * WIDTH, LABELS)}
    ports = {"ids": (1, "tokens"), "features": (1, "regions", FEATURES)}
    _write("scorer_head", nodes, ports, {"scores": (1, LABELS)}, weights)


if __name__ == "__main__":
    vision()
    head()
    scorer()
