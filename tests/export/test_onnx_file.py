"""The reader of ONNX bytes agrees with the onnx library, and keeps an engine from computing while it opens a file."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import tiny

from edgevlm.bundle import open_bundle
from edgevlm.engines import Host, open_engine
from edgevlm.errors import EngineError
from edgevlm.onnx_file import read_onnx
from edgevlm.options import RuntimeOptions

STAGES = sorted(tiny.STAGES.glob("*.onnx"))


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_names_the_operators_that_the_library_names(path: Path) -> None:
    nodes = onnx.load(path, load_external_data=False).graph.node
    assert read_onnx(path).operators == {(node.domain, node.op_type) for node in nodes}


def test_names_the_files_that_the_library_would_open(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 64))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 64))],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.data", size_threshold=0)
    assert read_onnx(tmp_path / "m.onnx").external == {"weights.data"}


def test_a_stage_that_computes_without_inputs_is_opened_at_once_and_ended_when_it_runs(tmp_path: Path) -> None:
    """64 products of two 2048 x 2048 matrices out of a file of a few hundred bytes: about ten seconds on one core."""
    size = helper.make_tensor("size", TensorProto.INT64, (2,), (2048, 2048))
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["m0"], value=helper.make_tensor("v", 1, (1,), [1e-3]))]
    nodes += [helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(64)]
    nodes += [
        helper.make_node("ReduceMax", ["m64"], ["top"], keepdims=0),
        helper.make_node("Add", ["features_in", "top"], ["features_out"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4)) for name in ("features_in", "features_out")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [size])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    root = tiny.mono(tmp_path / "bundle")
    parts = tiny.mono_parts(4, "head", tiny.mono_contract())
    parts["stages"]["busy"] = tiny.stage(
        "busy", [tiny.port("features_in", "features", 1, 4)], [tiny.port("features_out", "features", 1, 4)]
    )
    root = tiny.write_bundle(tmp_path / "hostile", parts)
    tiny.refile(root, "stages/busy.onnx", model.SerializeToString())
    begin = time.process_time()
    host = Host(open_engine(open_bundle(root), ["busy"], RuntimeOptions(intra_threads=1, run_limit_s=0.2)))
    assert time.process_time() - begin < 2.0
    with pytest.raises(EngineError, match="raise run_limit_s"):
        host.run("busy", {"features_in": np.ones((1, 4), np.float32)})
    host.close()
