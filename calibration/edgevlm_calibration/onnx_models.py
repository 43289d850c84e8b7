"""ONNX models of any size: saved with their weights beside them, and opened, where one message cannot hold them.

A protobuf message ends at 2 GB; a model over the limit keeps its weights in one file of its own beside it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx

from edgevlm.engines.ort_session import open_session
from edgevlm.onnx_file import OnnxFacts
from edgevlm.options import RuntimeOptions

LIMIT_BYTES = 1_500_000_000  # of weights within one message
SMALLEST_BYTES = 1024  # smaller weights stay in the message: shape inference wants to read them
ALIGNMENT = 4096  # an engine may map a weight into memory where it begins on a page
DATA = ".data"


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all weights; asking the message for its size fails where it is too large."""
    return sum(len(item.raw_data) for item in model.graph.initializer)


def save_model(model: onnx.ModelProto, path: Path, limit_bytes: int = LIMIT_BYTES) -> Path | None:
    """Write `model` to `path`; the file of its weights where they are more than `limit_bytes`."""
    if weight_bytes(model) <= limit_bytes:
        onnx.save(model, path)
        return None
    data = path.with_name(path.name + DATA)
    light = onnx.ModelProto()
    light.CopyFrom(_without_weights(model))
    with data.open("wb") as stream:
        for item in model.graph.initializer:
            entry = light.graph.initializer.add()
            if len(item.raw_data) < SMALLEST_BYTES:
                entry.CopyFrom(item)
                continue
            stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
            _outside(entry, item, data.name, stream.tell())
            stream.write(item.raw_data)
    onnx.save(light, path)
    return data


def drop_unused(graph: onnx.GraphProto) -> None:
    """Leave out the weights that no node reads."""
    read = {name for node in graph.node for name in node.input}
    weights = [item for item in graph.initializer if item.name in read]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def check_model(model: onnx.ModelProto) -> None:
    """onnx's own checks of the graph. Raises onnx.checker.ValidationError."""
    if weight_bytes(model) <= LIMIT_BYTES:
        onnx.checker.check_model(model)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        onnx.checker.check_model(str(path))


def open_model(model: onnx.ModelProto, options: RuntimeOptions, limit_bytes: int = LIMIT_BYTES) -> Any:
    """The model in ONNX Runtime, as the runtime opens it: else int8 is judged by other kernels than it is served by."""
    operators = frozenset((node.domain, node.op_type) for node in model.graph.node)
    facts = OnnxFacts(external=frozenset(), operators=operators, computes_alone=False)
    if weight_bytes(model) <= limit_bytes:
        return open_session(model.SerializeToString(), options, facts)
    with tempfile.TemporaryDirectory() as folder:  # read while the session is made
        path = Path(folder) / "model.onnx"
        save_model(model, path, limit_bytes)
        return open_session(path, options, facts)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """All of a model but its weights, which are not copied on the way."""
    graph = onnx.GraphProto(name=model.graph.name)
    for field in ("node", "input", "output", "value_info"):
        getattr(graph, field).extend(getattr(model.graph, field))
    light = onnx.ModelProto(graph=graph, ir_version=model.ir_version, producer_name=model.producer_name)
    light.opset_import.extend(model.opset_import)
    return light


def _outside(entry: onnx.TensorProto, item: onnx.TensorProto, file: str, offset: int) -> None:
    entry.name, entry.data_type, entry.data_location = item.name, item.data_type, onnx.TensorProto.EXTERNAL
    entry.dims.extend(item.dims)
    for key, value in (("location", file), ("offset", offset), ("length", len(item.raw_data))):
        pair = entry.external_data.add()
        pair.key, pair.value = key, str(value)
