"""Write tests/support/stages/*.onnx: stages of a few hundred weights that the tests put together to bundles.

Needs onnx, which the tests themselves do not: run `python tests/support/make_stages.py` after a change here and commit
what it writes. The weights come from a fixed seed, so the files come out byte for byte the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper, save_model

STAGES = Path(__file__).parent / "stages"
OPSET, IR = 17, 8  # old enough for every ONNX Runtime that edgevlm promises to run with
MAPS, TEXT, WORDS, TOKENS = 4, 4, 16, 6  # feature maps, size of a text vector, vocabulary, tokens
MONO_MAP, DUO_MAPS = (4, 4), {"left": (4, 4), "wrist": (3, 5)}
INTEGERS = ("ids", "positions", "index")  # inputs of whole numbers
CHAT_WIDTH, CHAT_HEADS, CHAT_LAYERS, CHAT_WORDS = 8, 2, 2, 272
QUANTIZED = 16  # width of the quantized layers
_random = np.random.default_rng(20)


def _weights(*shape: int) -> NDArray[np.float32]:
    return _random.normal(0.0, 0.6, shape).astype(np.float32)


def _model(
    name: str,
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, NDArray[Any]],
) -> None:
    def ports(shapes: Mapping[str, Sequence[int | str]]) -> list[Any]:
        kinds = {port: TensorProto.INT64 if port in INTEGERS else TensorProto.FLOAT for port in shapes}
        return [helper.make_tensor_value_info(port, kinds[port], list(shape)) for port, shape in shapes.items()]

    tensors = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    graph = helper.make_graph(list(nodes), name, ports(inputs), ports(outputs), tensors)
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    checker.check_model(model, full_check=True)
    save_model(model, STAGES / f"{name}.onnx")


def vision(name: str, height: int, width: int) -> None:
    """pixels (1, 3, 2h, 2w) -> features (1, MAPS, h, w): mean over 2x2, a 1x1 convolution, ReLU."""
    nodes = [
        helper.make_node("AveragePool", ["pixels"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["small", "w", "b"], ["mixed"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["mixed"], ["features"]),
    ]
    weights = {"w": _weights(MAPS, 3, 1, 1), "b": _weights(MAPS)}
    _model(name, nodes, {"pixels": (1, 3, 2 * height, 2 * width)}, {"features": (1, MAPS, height, width)}, weights)


def text() -> None:
    """ids, mask (1, TOKENS) -> text (1, TEXT): the mean of the words' vectors."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["vectors", "column"], ["said"]),
        helper.make_node("ReduceSum", ["said", "words"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "words"], ["count"], keepdims=1),
        helper.make_node("Div", ["total", "count"], ["text"]),
    ]
    weights = {"table": _weights(WORDS, TEXT), "last": np.array([2]), "words": np.array([1])}
    _model("text", nodes, {"ids": (1, TOKENS), "mask": (1, TOKENS)}, {"text": (1, TEXT)}, weights)


def pool(name: str, maps: Mapping[str, tuple[int, int]], slots: int, *, masked: bool) -> None:
    """<camera>_<slot> (1, MAPS, h, w) -> <camera>_pooled: the slots' sum, each with a weight of its own."""
    nodes, inputs, weights = [], {}, {}
    for camera, size in maps.items():
        parts = []
        for slot in range(slots):
            inputs[f"{camera}_{slot}"] = (1, MAPS, *size)
            weights[f"{camera}_w{slot}"] = np.float32([(slot + 1) / slots]).reshape(1, 1, 1, 1)
            nodes.append(helper.make_node("Mul", [f"{camera}_{slot}", f"{camera}_w{slot}"], [f"{camera}_part{slot}"]))
            parts.append(f"{camera}_part{slot}")
        nodes.append(helper.make_node("Sum", parts, [f"{camera}_sum" if masked else f"{camera}_pooled"]))
        if masked:
            inputs[f"{camera}_mask"] = (1, slots)
            nodes.append(helper.make_node("ReduceSum", [f"{camera}_mask"], [f"{camera}_count"], keepdims=0))
            nodes.append(helper.make_node("Div", [f"{camera}_sum", f"{camera}_count"], [f"{camera}_pooled"]))
    _model(name, nodes, inputs, {f"{camera}_pooled": (1, MAPS, *size) for camera, size in maps.items()}, weights)


def head(name: str, maps: Mapping[str, tuple[int, int]], state: int, outputs: Mapping[str, Sequence[int]]) -> None:
    """Pooled maps, text, state -> each output: tanh of a linear map. `head_fragile`: NaN for a state below -1."""
    nodes, joined = [], ["text", *(["state"] if state else [])]
    for camera in maps:
        nodes.append(helper.make_node("GlobalAveragePool", [f"{camera}_pooled"], [f"{camera}_mean"]))
        nodes.append(helper.make_node("Flatten", [f"{camera}_mean"], [f"{camera}_flat"]))
        joined.append(f"{camera}_flat")
    nodes.append(helper.make_node("Concat", joined, ["all"], axis=1))
    weights: dict[str, NDArray[Any]] = {}
    for output, shape in outputs.items():
        weights[f"{output}_w"] = _weights(TEXT + state + MAPS * len(maps), int(np.prod(shape)))
        weights[f"{output}_shape"] = np.array(shape, np.int64)
        nodes.append(helper.make_node("MatMul", ["all", f"{output}_w"], [f"{output}_line"]))
        nodes.append(helper.make_node("Tanh", [f"{output}_line"], [f"{output}_flat"]))
        last = f"{output}_whole" if name == "head_fragile" else output
        nodes.append(helper.make_node("Reshape", [f"{output}_flat", f"{output}_shape"], [last]))
        if name == "head_fragile":
            nodes.append(helper.make_node("Add", [last, "hurt"], [output]))
    if name == "head_fragile":
        weights["one"] = np.float32([1.0])
        hurt = [("Add", ["state", "one"], "shifted"), ("Log", ["shifted"], "logs"), ("ReduceSum", ["logs"], "hurt")]
        attributes = {"ReduceSum": {"keepdims": 0}}
        nodes[:0] = [helper.make_node(op, ins, [out], **attributes.get(op, {})) for op, ins, out in hurt]
    inputs: dict[str, Sequence[int]] = {"text": (1, TEXT)}
    if state:
        inputs["state"] = (1, state)
    inputs |= {f"{camera}_pooled": (1, MAPS, *size) for camera, size in maps.items()}
    _model(name, nodes, inputs, outputs, weights)


def head_alone() -> None:
    """front_0, front_1, state -> chunk, without words and without a pool: tanh of a linear map of all values."""
    nodes = [helper.make_node("Flatten", [f"front_{slot}"], [f"flat_{slot}"]) for slot in range(2)]
    nodes += [
        helper.make_node("Concat", ["flat_0", "flat_1", "state"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "w"], ["line"]),
        helper.make_node("Tanh", ["line"], ["bent"]),
        helper.make_node("Reshape", ["bent", "shape"], ["chunk"]),
    ]
    size = 2 * MAPS * int(np.prod(MONO_MAP)) + 3
    weights = {"w": _weights(size, 15) / np.float32(4.0), "shape": np.array([1, 5, 3])}
    inputs: dict[str, Sequence[int]] = {f"front_{slot}": (1, MAPS, *MONO_MAP) for slot in range(2)} | {"state": (1, 3)}
    _model("head_alone", nodes, inputs, {"chunk": (1, 5, 3)}, weights)


def busy(size: int = 512, rounds: int = 24) -> None:
    """features (1, 4) -> features (1, 4), after some 6 G multiplications: long enough to see who holds the GIL."""
    nodes = [
        helper.make_node("ReduceMean", ["features_in"], ["mean"], keepdims=0),
        helper.make_node("Expand", ["mean", "square"], ["m0"]),
    ]
    for turn in range(rounds):
        nodes.append(helper.make_node("MatMul", [f"m{turn}", "m0"], [f"p{turn}"]))
        nodes.append(helper.make_node("Tanh", [f"p{turn}"], [f"m{turn + 1}"]))
    nodes.append(helper.make_node("ReduceMean", [f"m{rounds}"], ["end"], keepdims=0))
    nodes.append(helper.make_node("Add", ["features_in", "end"], ["features_out"]))
    _model("busy", nodes, {"features_in": (1, 4)}, {"features_out": (1, 4)}, {"square": np.array([size, size])})


def dual_vision() -> None:
    """pixels (1, 3, 8, 8) -> embedding (1, 6): a convolution over blocks, ReLU, a linear map."""
    nodes = [
        helper.make_node("Conv", ["pixels", "w"], ["blocks"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Relu", ["blocks"], ["seen"]),
        helper.make_node("Flatten", ["seen"], ["flat"]),
        helper.make_node("MatMul", ["flat", "out"], ["image_embedding"]),
    ]
    weights = {"w": _weights(MAPS, 3, 2, 2), "out": _weights(MAPS * 16, 6)}
    _model("dual_vision", nodes, {"pixels": (1, 3, 8, 8)}, {"image_embedding": (1, 6)}, weights)


def dual_text() -> None:
    """ids (1, tokens) -> embedding (1, 6): the mean of the words' vectors, each turned by its place."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("CumSum", ["vectors", "one"], ["sofar"]),
        helper.make_node("Tanh", ["sofar"], ["bent"]),
        helper.make_node("ReduceMean", ["bent"], ["text_embedding"], axes=[1], keepdims=0),
    ]
    weights = {"table": _weights(WORDS, 6), "one": np.array(1)}
    _model("dual_text", nodes, {"ids": (1, "tokens")}, {"text_embedding": (1, 6)}, weights)


def dual_text_masked() -> None:
    """ids, mask (1, TOKENS) -> embedding (1, 6): the mean of the words' vectors where the mask is 1."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["vectors", "column"], ["said"]),
        helper.make_node("ReduceSum", ["said", "words"], ["text_embedding"], keepdims=0),
    ]
    weights = {"table": _weights(WORDS, 6), "last": np.array([2]), "words": np.array([1])}
    ports = {"ids": (1, TOKENS), "mask": (1, TOKENS)}
    _model("dual_text_masked", nodes, ports, {"text_embedding": (1, 6)}, weights)


def chat_vision() -> None:
    """pixels (1, 3, 8, 8) -> features (1, 4, CHAT_WIDTH): tanh of a linear map of each quarter."""
    nodes = [
        helper.make_node("Conv", ["pixels", "w"], ["blocks"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Tanh", ["blocks"], ["bent"]),
        helper.make_node("Reshape", ["bent", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["features"], perm=[0, 2, 1]),
    ]
    weights = {"w": _weights(CHAT_WIDTH, 3, 4, 4), "shape": np.array([1, CHAT_WIDTH, 4])}
    _model("chat_vision", nodes, {"pixels": (1, 3, 8, 8)}, {"features": (1, 4, CHAT_WIDTH)}, weights)


def _attention(layer: int) -> list[NodeProto]:
    """x<layer> (1, Q, H) -> x<layer + 1>, over the past and itself; layer 0 by mask `far`, layer 1 by mask `near`."""
    nodes = []
    for part in ("query", "key", "value"):
        created = f"q{layer}" if part == "query" else f"new_{part}_{layer}"
        nodes.append(helper.make_node("MatMul", [f"x{layer}", f"{part}_w{layer}"], [f"{part}_flat{layer}"]))
        nodes.append(helper.make_node("Reshape", [f"{part}_flat{layer}", "by_heads"], [created]))
    for part in ("key", "value"):
        both = [f"past_{part}_{layer}", f"new_{part}_{layer}"]
        nodes.append(helper.make_node("Concat", both, [f"{part}s{layer}"], axis=1))
    turned = {"q": [0, 2, 1, 3], "keys": [0, 2, 3, 1], "values": [0, 2, 1, 3]}
    for part, perm in turned.items():
        nodes.append(helper.make_node("Transpose", [f"{part}{layer}"], [f"{part}t{layer}"], perm=perm))
    mask = ("far", "near")[layer]
    return nodes + [
        helper.make_node("MatMul", [f"qt{layer}", f"keyst{layer}"], [f"raw{layer}"]),
        helper.make_node("Add", [f"raw{layer}", mask], [f"scores{layer}"]),
        helper.make_node("Softmax", [f"scores{layer}"], [f"shares{layer}"], axis=-1),
        helper.make_node("MatMul", [f"shares{layer}", f"valuest{layer}"], [f"read{layer}"]),
        helper.make_node("Transpose", [f"read{layer}"], [f"readt{layer}"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [f"readt{layer}", "joined"], [f"flat{layer}"]),
        helper.make_node("MatMul", [f"flat{layer}", f"out_w{layer}"], [f"line{layer}"]),
        helper.make_node("Tanh", [f"line{layer}"], [f"bent{layer}"]),
        helper.make_node("Add", [f"x{layer}", f"bent{layer}"], [f"x{layer + 1}"]),
    ]


def chat_decoder(name: str = "chat_decoder", condition: str = "", length: int | str = 4) -> None:
    """A decoder of two layers, as `KVDecoderSpec` describes it; what it says depends on places, masks and the past.

    And, where it is `told` something (1, length, CHAT_WIDTH), on that, whose order it does not see.
    """
    width, size = CHAT_WIDTH, CHAT_WIDTH // CHAT_HEADS
    nodes = [
        helper.make_node("Cast", ["positions"], ["place"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["place", "last"], ["column"]),
        helper.make_node("Mul", ["column", "pace"], ["angle"]),
        helper.make_node("Sin", ["angle"], ["wave"]),
        helper.make_node("Add", ["embeds", "wave"], ["placed" if condition else "x0"]),
        *(_conditioned(condition, "placed", "x0") if condition else ()),
        *(node for layer in range(CHAT_LAYERS) for node in _attention(layer)),
        helper.make_node("Gather", [f"x{CHAT_LAYERS}", "index"], ["wanted"], axis=1),
        helper.make_node("Reshape", ["wanted", "row"], ["one"]),
        helper.make_node("MatMul", ["one", "head_w"], ["logits"]),
    ]
    weights: dict[str, NDArray[Any]] = {
        "last": np.array([2]),
        "pace": (0.37 * 1.7 ** np.arange(width)).astype(np.float32).reshape(1, 1, width) % np.float32(2.9),
        "by_heads": np.array([1, -1, CHAT_HEADS, size]),
        "joined": np.array([1, -1, width]),
        "row": np.array([1, width]),
        "head_w": 3 * _weights(width, CHAT_WORDS),
    }
    inputs: dict[str, Sequence[int | str]] = {"embeds": (1, "query", width), "positions": (1, "query")}
    inputs |= dict.fromkeys(("far", "near"), (1, 1, "query", "keys")) | {"index": (1,)}
    if condition:
        inputs[condition], weights["told_w"] = (1, length, width), _weights(width, width)
    outputs: dict[str, Sequence[int | str]] = {"logits": (1, CHAT_WORDS)}
    for layer in range(CHAT_LAYERS):
        weights |= {f"{part}_w{layer}": _weights(width, width) for part in ("query", "key", "value", "out")}
        for part in ("key", "value"):
            inputs[f"past_{part}_{layer}"] = (1, "past", CHAT_HEADS, size)
            outputs[f"new_{part}_{layer}"] = (1, "query", CHAT_HEADS, size)
    _model(name, nodes, inputs, outputs, weights)
    if not condition:
        np.save(STAGES / "chat_embeddings.npy", _weights(CHAT_WORDS, width))


def _conditioned(condition: str, before: str, after: str) -> list[NodeProto]:
    """`before` (1, Q, H), each moved by the condition (1, N, H)."""
    return [
        helper.make_node("ReduceMean", [condition], [f"{condition}_mean"], axes=[1], keepdims=1),
        helper.make_node("MatMul", [f"{condition}_mean", "told_w"], [f"{condition}_line"]),
        helper.make_node("Tanh", [f"{condition}_line"], [f"{condition}_bent"]),
        helper.make_node("Add", [before, f"{condition}_bent"], [after]),
    ]


def asked_encoder() -> None:
    """ids (1, asked), features (1, 4, CHAT_WIDTH) -> read (1, asked, CHAT_WIDTH): words, each moved by the picture."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"], axis=0),
        *_conditioned("features", "words", "both"),
        helper.make_node("Tanh", ["both"], ["read"]),
    ]
    inputs: dict[str, Sequence[int | str]] = {"ids": (1, "asked"), "features": (1, 4, CHAT_WIDTH)}
    weights = {"table": _weights(CHAT_WORDS, CHAT_WIDTH), "told_w": _weights(CHAT_WIDTH, CHAT_WIDTH)}
    _model("asked_encoder", nodes, inputs, {"read": (1, "asked", CHAT_WIDTH)}, weights)


def quantized(name: str, tokens: int | str) -> None:
    """tokens (1, tokens, QUANTIZED) -> mixed: two layers with biases as a transformer has them, int8 as exports are."""
    nodes: list[NodeProto] = []
    weights: dict[str, NDArray[Any]] = {"zero": np.uint8(128), "scale": np.float32(0.03)}
    entering = "tokens"
    for layer in ("up", "down"):
        weights |= {
            f"{layer}_w": _random.integers(-127, 128, (QUANTIZED, QUANTIZED)).astype(np.int8),
            f"{layer}_scale": _random.uniform(0.001, 0.002, QUANTIZED).astype(np.float32),
            f"{layer}_zero": np.zeros(QUANTIZED, np.int8),
            f"{layer}_b": _weights(QUANTIZED),
        }
        parameters = ["scale", "zero"]
        nodes += [
            helper.make_node("QuantizeLinear", [entering, *parameters], [f"{layer}_codes"]),
            helper.make_node("DequantizeLinear", [f"{layer}_codes", *parameters], [f"{layer}_in"]),
            helper.make_node(
                "DequantizeLinear", [f"{layer}_w", f"{layer}_scale", f"{layer}_zero"], [f"{layer}_weight"], axis=1
            ),
            helper.make_node("MatMul", [f"{layer}_in", f"{layer}_weight"], [f"{layer}_product"]),
            helper.make_node("Add", [f"{layer}_product", f"{layer}_b"], [f"{layer}_sum"]),
        ]
        entering = f"{layer}_sum"
    nodes.append(helper.make_node("Tanh", [entering], ["mixed"]))
    shape = (1, tokens, QUANTIZED)
    _model(name, nodes, {"tokens": shape}, {"mixed": shape}, weights)


def main() -> None:
    """Every stage, in an order that is part of the seed."""
    STAGES.mkdir(exist_ok=True)
    mono, planned = {"front": MONO_MAP}, {"chunk": (1, 5, 3), "waypoints": (1, 2, 2), "step_logits": (1, 3)}
    vision("vision", *MONO_MAP)
    vision("vision_wrist", *DUO_MAPS["wrist"])
    text()
    pool("pool_4", mono, 4, masked=False)
    pool("pool_8", mono, 8, masked=False)
    pool("pool_duo", DUO_MAPS, 3, masked=False)
    pool("pool_duo_masked", DUO_MAPS, 3, masked=True)
    head("head", mono, 3, planned)
    head("head_fragile", mono, 3, planned)
    head("head_duo", DUO_MAPS, 0, {"chunk": (1, 5, 3)})
    busy()
    dual_vision()
    dual_text()
    dual_text_masked()
    chat_vision()
    chat_decoder()
    head_alone()
    chat_decoder("shown_decoder", "features")
    asked_encoder()
    chat_decoder("asked_decoder", "read", "asked")
    quantized("quantized", 6)
    quantized("quantized_dynamic", "tokens")


if __name__ == "__main__":
    main()
