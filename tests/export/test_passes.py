"""Claims about single graph rewrites, on graphs small enough to read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgevlm.errors import CalibrationError, QuantizationError
from edgevlm.options import RuntimeOptions
from edgevlm_calibration.onnx_models import open_model
from edgevlm_calibration.quantizable_nodes import quantizable_nodes, tensors
from edgevlm_export.quantization.int8 import quantize, quantize_weight
from edgevlm_export.quantization.passes.forbidden import check_tensorrt
from edgevlm_export.quantization.passes.fp16 import fp16
from edgevlm_export.quantization.passes.split_gemm import split_gemm
from edgevlm_export.quantization.passes.u8_activations import u8_activations
from edgevlm_export.tracing.trace import strip

GENERATOR = np.random.default_rng(0)


def _model(
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, NDArray[np.float32]],
    shape: list[int],
    out: list[int] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out or shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _conv_net(*, relu: bool = True) -> onnx.ModelProto:
    """x (1,3,8,8) -> conv, relu, conv + residual -> y: every way a convolution may end."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu" if relu else "Tanh", ["c1"], ["r1"], "act1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["r1", "c2"], ["s"], "add"),
        helper.make_node("Relu", ["s"], ["y"], "act2"),
    ]
    constants = {
        "w1": GENERATOR.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "b1": GENERATOR.standard_normal(4).astype(np.float32),
        "w2": GENERATOR.standard_normal((4, 4, 3, 3)).astype(np.float32),
    }
    return _model(nodes, constants, [1, 3, 8, 8], [1, 4, 8, 8])


def _linear(op: str = "Gemm") -> onnx.ModelProto:
    inputs = ["x", "w", "b"] if op == "Gemm" else ["x", "w"]
    constants = {"w": GENERATOR.standard_normal((6, 5)).astype(np.float32), "b": np.ones(5, np.float32)}
    return _model(
        [helper.make_node(op, inputs, ["y"], "linear")], {k: constants[k] for k in inputs[1:]}, [1, 6], [1, 5]
    )


def _run(model: onnx.ModelProto, x: NDArray[np.float32], *, optimize: bool = False) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return result


def _thresholds(model: onnx.ModelProto, value: float = 8.0) -> dict[str, float]:
    return dict.fromkeys(tensors(quantizable_nodes(model)), value)


def _x(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (scale * GENERATOR.standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("relu", [True, False])
def test_both_forms_are_bit_equal_also_where_values_clip(relu: bool) -> None:
    model = _conv_net(relu=relu)
    created = quantize("net", model, _thresholds(model, 3.0)).model
    for scale in (0.1, 1.0, 30.0):  # the last one drives every tensor far beyond its range
        x = _x(1, 3, 8, 8, scale=scale)
        np.testing.assert_array_equal(_run(created, x), _run(u8_activations(created), x))


def test_the_cpu_form_has_no_relu_between_an_operator_and_its_quantization() -> None:
    model = _conv_net()
    cpu = u8_activations(quantize("net", model, _thresholds(model)).model)
    producers = {name: node.op_type for node in cpu.graph.node for name in node.output}
    sources = [producers.get(node.input[0], "input") for node in cpu.graph.node if node.op_type == "QuantizeLinear"]
    assert sources == ["input", "Conv", "Conv"]
    assert [node.op_type for node in cpu.graph.node].count("Relu") == 1  # the last one leaves the graph in floats


def test_the_engine_runs_the_cpu_form_in_integers(tmp_path: object) -> None:
    model = _conv_net()
    cpu = u8_activations(quantize("net", model, _thresholds(model)).model)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = f"{tmp_path}/optimized.onnx"
    options.log_severity_level = 4
    onnxruntime.InferenceSession(cpu.SerializeToString(), options, ["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert ops.count("QLinearConv") == 2 and "Conv" not in ops


def test_quantized_outputs_stay_near_the_floats() -> None:
    model = _conv_net()
    x = _x(1, 3, 8, 8)
    peaks = {"x": float(np.abs(x).max()), "r1": 20.0, "c2": 60.0}
    assert set(peaks) == set(_thresholds(model))
    want, got = _run(model, x), _run(quantize("net", model, peaks).model, x)
    assert 0 < np.abs(want - got).max() < 0.05 * np.abs(want).max()


@pytest.mark.parametrize(("op", "axis_length"), [("Gemm", 5), ("MatMul", 5)])
def test_weights_have_one_scale_for_each_output_channel(op: str, axis_length: int) -> None:
    created = quantize("net", _linear(op), _thresholds(_linear(op))).model
    scales = {item.name: list(item.dims) for item in created.graph.initializer if item.name == "w.scale"}
    assert scales == {"w.scale": [axis_length]}
    assert not any(item.name == "w" for item in created.graph.initializer), "the float weight must not travel along"


def test_the_source_graph_is_left_as_it_was() -> None:
    model = _conv_net()
    before = model.SerializeToString()
    u8_activations(quantize("net", model, _thresholds(model)).model)
    assert model.SerializeToString() == before


def test_products_of_two_activations_stay_in_floats() -> None:
    model = _model([helper.make_node("MatMul", ["x", "x"], ["y"], "square")], {}, [4, 4])
    with pytest.raises(QuantizationError, match=r"found none among \['MatMul'\]"):
        quantize("square", model, {})


def test_nothing_left_to_quantize_is_refused() -> None:
    with pytest.raises(QuantizationError, match="--precision fp32"):
        quantize("net", _linear(), _thresholds(_linear()), exclude=("w",))


@pytest.mark.parametrize(("turned", "twice"), [(0, False), (1, False), (1, True)])
def test_a_gemm_with_a_bias_becomes_a_product_that_computes_the_same(turned: int, twice: bool) -> None:
    random = np.random.default_rng(7)
    weight = random.standard_normal((5, 6) if turned else (6, 5)).astype(np.float32)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "linear", transB=turned)]
    if twice:
        nodes.append(helper.make_node("Gemm", ["x", "w", "b"], ["z"], "other", transB=turned))
        nodes.append(helper.make_node("Add", ["y", "z"], ["sum"]))
    constants = {"w": weight, "b": random.standard_normal(5).astype(np.float32)}
    model = _model(nodes, constants, [1, 6], [1, 5])
    split = onnx.ModelProto()
    split.CopyFrom(model)
    split_gemm(split, {"linear"})
    assert [node.op_type for node in split.graph.node][:2] == ["MatMul", "Add"]
    x = random.standard_normal((1, 6)).astype(np.float32)
    want, got = (open_model(each, RuntimeOptions()).run(None, {"x": x})[0] for each in (model, split))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    quantized = u8_activations(quantize("net", model, {"x": 3.0}).model)
    assert not [node.op_type for node in quantized.graph.node if node.op_type == "Gemm"]


@pytest.mark.parametrize("attributes", [{"alpha": 2.0}, {"beta": 0.5}])
def test_a_gemm_that_scales_stays(attributes: dict[str, float]) -> None:
    model = _model([helper.make_node("Gemm", ["x", "w", "b"], ["y"], "linear", **attributes)], {}, [1, 6], [1, 5])
    split_gemm(model, {"linear"})
    assert [node.op_type for node in model.graph.node] == ["Gemm"]


def test_an_excluded_weight_stays_in_floats() -> None:
    model = _conv_net()
    created = quantize("net", model, _thresholds(model), exclude=("w2",))
    assert created.nodes == 1
    assert {item.name for item in created.model.graph.initializer} >= {"w1.int8", "w2"}


def test_a_table_of_another_model_is_refused() -> None:
    with pytest.raises(CalibrationError, match="r1"):
        quantize("net", _conv_net(), {"x": 1.0, "c2": 1.0})


@given(st.integers(0, 10_000), st.integers(0, 1))
@settings(max_examples=50, deadline=None)
def test_a_quantized_weight_is_off_by_half_a_step_at_most(seed: int, axis: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((5, 7)).astype(np.float32)
    weight[:, 2] = 0.0
    values, scales = quantize_weight(weight, axis)
    steps = scales[:, None] if axis == 0 else scales[None, :]
    assert values.dtype == np.int8 and values.min() >= -127
    assert (np.abs(values * steps - weight) <= 0.5001 * steps).all()


def _with(op: str, **attributes: object) -> onnx.ModelProto:
    return _model([helper.make_node(op, ["x"], ["y"], "odd", **attributes)], {}, [2, 2])


@pytest.mark.parametrize("op", ["NonZero", "DynamicQuantizeLinear", "MatMulNBits", "MatMulInteger", "Attention"])
def test_operators_that_tensorrt_refuses_are_named(op: str) -> None:
    with pytest.raises(QuantizationError, match=op):
        check_tensorrt("stage", _with(op))


def test_operators_of_other_domains_are_named() -> None:
    with pytest.raises(QuantizationError, match=r"com\.microsoft::FusedConv"):
        check_tensorrt("stage", _with("FusedConv", domain="com.microsoft"))


def test_zero_points_other_than_int8_0_are_named() -> None:
    model = _conv_net()
    created = quantize("net", model, _thresholds(model)).model
    check_tensorrt("net", created)
    with pytest.raises(QuantizationError, match="zero point that is not int8 0"):
        check_tensorrt("net", u8_activations(created))
    shifted = next(item for item in created.graph.initializer if item.name == "x.zero")
    shifted.CopyFrom(numpy_helper.from_array(np.array(1, np.int8), "x.zero"))
    with pytest.raises(QuantizationError, match="x/quantize"):
        check_tensorrt("net", created)


def test_an_int32_bias_is_named() -> None:
    model = _model(
        [helper.make_node("DequantizeLinear", ["bias", "scale"], ["y"], "bias_dq")],
        {"scale": np.array(1, np.float32)},
        [1],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.int32), "bias"))
    with pytest.raises(QuantizationError, match="int32 DequantizeLinear"):
        check_tensorrt("stage", model)


def test_fp16_keeps_fp32_ports() -> None:
    created, converted = fp16("net", _linear())
    assert converted == 2
    assert {value.type.tensor_type.elem_type for value in (*created.graph.input, *created.graph.output)} == {
        TensorProto.FLOAT
    }
    x = _x(1, 6)
    np.testing.assert_allclose(_run(created, x), _run(_linear_like(created), x), atol=0.02)


def _linear_like(created: onnx.ModelProto) -> onnx.ModelProto:
    """The same linear layer in fp32, from the fp16 constants."""
    constants = {item.name: numpy_helper.to_array(item).astype(np.float32) for item in created.graph.initializer}
    return _model([helper.make_node("Gemm", ["x", "w", "b"], ["y"], "linear")], constants, [1, 6], [1, 5])


def test_fp16_without_anything_to_convert_is_refused() -> None:
    with pytest.raises(QuantizationError, match="--precision fp32"):
        fp16("net", _with("Relu"))


def test_strip_leaves_no_trace_of_the_tracer() -> None:
    model = _conv_net()
    model.producer_version = "1.2.3"
    for item in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input):
        item.doc_string = "/home/me/model.py"
        item.metadata_props.add(key="stack", value="/home/me/model.py")
    strip(model)
    assert b"/home/me" not in model.SerializeToString() and model.producer_version == ""
