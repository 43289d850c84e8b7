"""Write tests/support/stages/denoise_*.onnx, as make_stages.py writes the others: run it after a change here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, checker, helper, numpy_helper, save_model

STAGES = Path(__file__).parent / "stages"
OPSET, IR = 17, 8  # old enough for every ONNX Runtime that edgevlm promises to run with
PLACES, WIDTH, WORDS, STATE = 4, 4, 6, 3  # of the features, of a row, of a text, of the state
ROWS, HEADS, SIZE = PLACES + WORDS + 1, 2, 4  # what a step looks at
CHUNK, TIME = (1, 5, 8), 6
MASK, KEYS = (1, WORDS), (1, ROWS, HEADS, SIZE)
Shapes = Mapping[str, Sequence[int]]
_random = np.random.default_rng(22)


def _weights(*shape: int) -> NDArray[np.float32]:
    return _random.normal(0.0, 0.6, shape).astype(np.float32)


def _write(
    name: str, nodes: Sequence[NodeProto], inputs: Shapes, outputs: Shapes, weights: Mapping[str, NDArray[np.generic]]
) -> None:
    ports = [
        [helper.make_tensor_value_info(port, TensorProto.FLOAT, list(shape)) for port, shape in side.items()]
        for side in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), key) for key, value in weights.items()]
    graph = helper.make_graph(list(nodes), name, *ports, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    checker.check_model(model, full_check=True)
    save_model(model, STAGES / f"{name}.onnx")


def vision() -> None:
    """pixels (1, 3, 8, 8) -> features, a row for each block of 4x4 pixels."""
    nodes = [
        helper.make_node("Conv", ["pixels", "w"], ["blocks"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Reshape", ["blocks", "rows"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Tanh", ["turned"], ["features"]),
    ]
    weights = {"w": _weights(WIDTH, 3, 4, 4), "rows": np.array([1, WIDTH, PLACES])}
    _write("denoise_vision", nodes, {"pixels": (1, 3, 8, 8)}, {"features": (1, PLACES, WIDTH)}, weights)


def prefix() -> None:
    """Features, the rows of the words that are there, and the state as one row -> a key and a value of each."""
    nodes = [
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["embeds", "column"], ["said"]),
        helper.make_node("MatMul", ["state", "w_state"], ["felt"]),
        helper.make_node("Unsqueeze", ["felt", "middle"], ["row"]),
        helper.make_node("Concat", ["front", "said", "row"], ["all"], axis=1),
    ]
    weights = {"last": np.array([2]), "middle": np.array([1]), "w_state": _weights(STATE, WIDTH)}
    weights["heads"] = np.array(KEYS)
    for part in ("key", "value"):
        weights[f"w_{part}"] = _weights(WIDTH, HEADS * SIZE)
        nodes.append(helper.make_node("MatMul", ["all", f"w_{part}"], [f"flat_{part}"]))
        nodes.append(helper.make_node("Reshape", [f"flat_{part}", "heads"], [f"cross_{part}_0"]))
    inputs = {"front": (1, PLACES, WIDTH), "embeds": (1, WORDS, WIDTH), "mask": MASK, "state": (1, STATE)}
    _write("denoise_prefix", nodes, inputs, {"cross_key_0": KEYS, "cross_value_0": KEYS}, weights)


def step() -> None:
    """A sample at a time, which looks at every row but those of words that are not there -> its velocity."""
    nodes = [
        helper.make_node("MatMul", ["sample", "w_query"], ["asked"]),
        helper.make_node("MatMul", ["time", "w_time"], ["now"]),
        helper.make_node("Add", ["asked", "now"], ["flat_query"]),
        helper.make_node("Reshape", ["flat_query", "heads"], ["query_rows"]),
        helper.make_node("Transpose", ["query_rows"], ["query"], perm=[0, 2, 1, 3]),
        helper.make_node("Transpose", ["cross_key_0"], ["key"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["cross_value_0"], ["value"], perm=[0, 2, 1, 3]),
        helper.make_node("MatMul", ["query", "key"], ["plain"]),
        helper.make_node("Concat", ["seen", "mask", "felt"], ["there"], axis=1),
        helper.make_node("Sub", ["there", "one"], ["away"]),
        helper.make_node("Mul", ["away", "far"], ["below"]),
        helper.make_node("Add", ["plain", "below"], ["scores"]),  # (1, H, K, ROWS) + (1, ROWS)
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "value"], ["found"]),
        helper.make_node("Transpose", ["found"], ["found_rows"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["found_rows", "flat"], ["flat_found"]),
        helper.make_node("MatMul", ["flat_found", "w_out"], ["moved"]),
        helper.make_node("Mul", ["sample", "some"], ["kept"]),
        helper.make_node("Add", ["moved", "kept"], ["velocity"]),
    ]
    width = CHUNK[-1]
    weights = {
        **{"w_query": _weights(width, width), "w_time": _weights(TIME, width), "w_out": _weights(width, width)},
        **{"heads": np.array([1, CHUNK[1], HEADS, SIZE]), "flat": np.array(CHUNK)},
        **{"seen": np.ones((1, PLACES), np.float32), "felt": np.ones((1, 1), np.float32)},
        **{"one": np.float32([1]), "far": np.float32([1e4]), "some": np.float32([0.7])},
    }
    keys = {"cross_key_0": KEYS, "cross_value_0": KEYS}
    inputs = {"sample": CHUNK, "time": (1, TIME), "mask": MASK, **keys}
    _write("denoise_step", nodes, inputs, {"velocity": CHUNK}, weights)


if __name__ == "__main__":
    vision()
    prefix()
    step()
