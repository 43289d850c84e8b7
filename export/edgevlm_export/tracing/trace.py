"""PyTorch stage -> ONNX graph, the same bytes every time."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch

from edgevlm.errors import FamilyError
from edgevlm_export.stage_graph import Stage
from edgevlm_export.tracing.repeated_layers import Chain
from edgevlm_export.tracing.stitch import OPSET, stitch

TALKATIVE = ("torch.onnx", "onnxscript", "onnx_ir")


def trace(stage: Stage) -> onnx.ModelProto:
    """One stage as an ONNX model at opset 18, without traces of where it was made.

    Raises:
        FamilyError: PyTorch cannot trace the module, or the graph does not have the ports the adapter promised.
    """
    try:
        with _quiet(), torch.no_grad():
            model = stitch(stage, stage.module) if isinstance(stage.module, Chain) else _trace_whole(stage)
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise FamilyError(
            f"stage {stage.name!r}: PyTorch cannot trace {type(stage.module).__name__} ({error}); "
            "the family's adapter must hand over a pure tensor function"
        ) from error
    strip(model)
    _check_ports(stage, model)
    return model


def strip(model: onnx.ModelProto) -> None:
    """Clear what a tracer leaves behind, in place: metadata, doc strings, shapes of inner values and the producer.

    Its stack traces hold local paths, which also make two exports differ.
    """
    for item in _items(model):
        item.ClearField("doc_string")
        if "metadata_props" in item.DESCRIPTOR.fields_by_name:
            item.ClearField("metadata_props")
    del model.graph.value_info[:]
    model.producer_name, model.producer_version = "edgevlm", ""
    model.graph.name = "stage"


def _items(model: onnx.ModelProto) -> Iterator[Any]:
    yield model
    yield from model.functions
    for function in model.functions:
        yield from function.node
    yield from _graph_items(model.graph)


def _graph_items(graph: onnx.GraphProto) -> Iterator[Any]:
    yield graph
    yield from (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graph_items(attribute.g)


def _trace_whole(stage: Stage) -> onnx.ModelProto:
    program = torch.onnx.export(
        stage.module.eval(),
        stage.example,
        dynamo=True,
        opset_version=OPSET,
        input_names=[port.name for port in stage.inputs],
        output_names=[port.name for port in stage.outputs],
        dynamic_shapes=_dynamic_shapes(stage),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _dynamic_shapes(stage: Stage) -> tuple[dict[int, object], ...] | None:
    if not stage.dynamic:
        return None
    dims = {name: torch.export.Dim(name, min=low, max=high) for name, (low, _, high) in stage.dynamic.items()}
    return tuple({i: dims[d] for i, d in enumerate(port.shape) if isinstance(d, str)} for port in stage.inputs)


def _check_ports(stage: Stage, model: onnx.ModelProto) -> None:
    for ports, values, what in (
        (stage.inputs, model.graph.input, "inputs"),
        (stage.outputs, model.graph.output, "outputs"),
    ):
        want = [(port.name, _fixed(port.shape)) for port in ports]
        got = [(value.name, tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)) for value in values]
        if want != got:
            raise FamilyError(
                f"stage {stage.name!r}: expected {what} {want}, traced {got} (0 = any); mend the adapter's ports"
            )


def _fixed(shape: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else 0 for dim in shape)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter writes notes to stdout and warns about its own internals: neither is for our user."""
    levels = {logger: logger.level for logger in map(logging.getLogger, TALKATIVE)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
