"""Remove what a tracer leaves behind: stack traces with local paths, which also make two exports differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx


def strip(model: onnx.ModelProto) -> None:
    """Clear metadata, doc strings, shapes of inner values and the producer, in place."""
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
