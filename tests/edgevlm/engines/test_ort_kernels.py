"""What ONNX Runtime makes of quantized products is counted in its own graph, and counted right."""

from __future__ import annotations

import onnxruntime
import pytest
from support import tiny

from edgevlm.engines.base import Kernels
from edgevlm.engines.ort_session import count_kernels, kernels
from edgevlm.onnx_file import OnnxNode, read_onnx
from edgevlm.options import RuntimeOptions

ALONE = RuntimeOptions(intra_threads=1)
FUSES_FIRST = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 22)


@pytest.mark.skipif(not FUSES_FIRST, reason="ONNX Runtime before 1.22 looks for quantized products first")
def test_without_the_rule_of_quantized_graphs_products_of_static_shapes_run_in_floats() -> None:
    path = tiny.STAGES / "quantized.onnx"
    facts = read_onnx(path)
    assert count_kernels(path, ALONE, facts) == Kernels(2, 0)
    assert count_kernels(path, ALONE, facts._replace(operators=frozenset())).dequantized > 0


def test_a_float_graph_has_no_quantized_products() -> None:
    path = tiny.STAGES / "vision.onnx"
    assert count_kernels(path, ALONE, read_onnx(path)) == Kernels(0, 0)


def test_a_weight_that_is_dequantized_and_turned_is_one_still() -> None:
    nodes = [
        OnnxNode("DequantizeLinear", ("weight", "scale", "zero"), ("floats",)),
        OnnxNode("Transpose", ("floats",), ("turned",)),
        OnnxNode("DequantizeLinear", ("codes", "scale", "zero"), ("activation",)),
        OnnxNode("FusedMatMul", ("activation", "turned"), ("product",)),
        OnnxNode("MatMul", ("activation", "product"), ("attention",)),
        OnnxNode("MatMulIntegerToFloat", ("codes", "weight"), ("integers",)),
    ]
    assert kernels(nodes, frozenset({"weight", "scale", "zero"})) == Kernels(1, 1)
