"""Write tests/support/stages/regions_vision.onnx, as make_stages.py writes the others: run it after a change here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save_model

STAGES = Path(__file__).parent / "stages"
OPSET, IR = 17, 8  # old enough for every ONNX Runtime that edgevlm promises to run with
COUNT, WIDTH = 16, 6
PARTS = {"line": WIDTH, "place": 4, "shift": 1, "power": 1, "objectness": 1}  # of what is said of a region


def main() -> None:
    """pixels (1, 3, 8, 8) -> the outputs of `RegionsArgs`, one region for each block of 2x2 pixels."""
    random = np.random.default_rng(21)
    total = sum(PARTS.values())
    flat = ("shift", "power", "objectness")
    nodes = [
        helper.make_node("Conv", ["pixels", "w"], ["blocks"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["blocks", "rows"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["all"], perm=[0, 2, 1]),
        helper.make_node("Split", ["all", "parts"], [f"{name}_part" for name in PARTS], axis=2),
        *(helper.make_node("Reshape", [f"{name}_part", "column"], [name]) for name in flat),
        helper.make_node("ReduceL2", ["line_part"], ["length"], axes=[2], keepdims=1),
        helper.make_node("Div", ["line_part", "length"], ["regions"]),
        helper.make_node("Sigmoid", ["place_part"], ["boxes"]),
        helper.make_node("Exp", ["power"], ["scale"]),
    ]
    weights = {
        "w": random.normal(0.0, 0.6, (total, 3, 2, 2)).astype(np.float32),
        "rows": np.array([1, total, COUNT]),
        "parts": np.array(list(PARTS.values())),
        "column": np.array([1, COUNT]),
    }
    shapes = {"regions": (1, COUNT, WIDTH), "boxes": (1, COUNT, 4)}
    shapes |= dict.fromkeys(("shift", "scale", "objectness"), (1, COUNT))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, (1, 3, 8, 8))
    tensors = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    graph = helper.make_graph(nodes, "regions_vision", [pixels], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    checker.check_model(model, full_check=True)
    save_model(model, STAGES / "regions_vision.onnx")


if __name__ == "__main__":
    main()
