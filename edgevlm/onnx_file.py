"""What an ONNX file would make an engine do, read without an engine: files it opens, operators, what it computes alone.

A reader of the few protobuf fields that matter (onnx.proto of ONNX 1.x gives the numbers). It never builds a tensor:
weights are stepped over, and a file of gigabytes costs a few pages of it. What is read of a file is bounded.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from edgevlm.errors import BundleError

# Field numbers.
_MODEL_GRAPH, _MODEL_OPSETS, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 8, 20, 25
_OPSET_DOMAIN = 1
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_GRAPHS, _ATTRIBUTE_TENSORS, _ATTRIBUTE_SPARSE = (6, 11), (5, 10), (22, 23)
_TENSOR_DIMENSION, _TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 8, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10
_TEXT_BYTES = 4096  # of a name, an operator or a location
MOST_NODES = 1_000_000
_MOST_SIZE = 1 << 62

DOMAINS = frozenset({"", "ai.onnx"})  # whose operators an engine runs itself, without a library beside the file
# They run graphs inside graphs, as often as the file says: nothing could tell that such a file ends.
CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
# What an engine may compute once, when it opens the file, without becoming larger than the weights that it reads.
_BOUNDED = frozenset(
    {"DequantizeLinear", "QuantizeLinear", "Cast", "Identity", "Transpose", "Reshape", "Squeeze"}
    | {"Unsqueeze", "Flatten", "Split", "Slice"}
)
# The values of their inputs tell how much they make, or they have no inputs.
_GENERATORS = frozenset(
    {"ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample", "CenterCropPad"}
    | {"RandomNormal", "RandomUniform", "Bernoulli", "BlackmanWindow", "HannWindow", "HammingWindow", "MelWeightMatrix"}
)
_FOLDED_NUMBERS = 1 << 24

MOST_FIELDS = 600_000  # of a file: a few times as many as the largest graphs have
MOST_AXES = 32

Span = tuple[int, int]  # begin and end of a field's bytes


class Mapped(mmap.mmap):
    """A file in memory that counts the fields which were read of it, however small they are."""

    fields_read = 0


class OnnxFacts(NamedTuple):
    """What one file holds.

    Attributes:
        external: the locations of weights outside the file, as it writes them.
        operators: (domain, name) of every node.
        computes_alone: whether an engine that folds constants would compute more than the weights that it reads.
    """

    external: frozenset[str]
    operators: frozenset[tuple[str, str]]
    computes_alone: bool


class OnnxNode(NamedTuple):
    """One node: what it computes of which tensors."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Malformed(Exception):
    """The bytes are no such message; the text says why."""


class _Graph:
    """What is collected over all parts of the file.

    Args:
        domains: whose operators it may have; None allows all.
    """

    def __init__(self, domains: frozenset[str] | None = DOMAINS) -> None:
        self.domains = domains
        self.external: set[str] = set()
        self.operators: set[tuple[str, str]] = set()
        self.constants: dict[str, int] = {}  # name -> how many numbers
        self.nodes: list[OnnxNode] = []

    def check_domain(self, domain: str) -> None:
        if self.domains is not None and domain not in self.domains:
            raise Malformed(f"operators of the domain {domain!r:.80}")


def read_onnx(path: Path) -> OnnxFacts:
    """The facts about a file.

    Raises:
        BundleError: it is no ONNX file, or has what no stage may have: control flow, graphs inside nodes, functions,
            training, sparse weights, operators of a domain that is not ONNX's own.
    """
    graph = _read_file(path, _Graph())
    return OnnxFacts(frozenset(graph.external), frozenset(graph.operators), _computes_alone(graph))


def read_nodes(path: Path) -> tuple[list[OnnxNode], frozenset[str]]:
    """All nodes, of whatever domain, and the names of the constants of a graph that an engine wrote.

    Raises:
        BundleError: as `read_onnx`, but for the domains.
    """
    graph = _read_file(path, _Graph(domains=None))
    return graph.nodes, frozenset(graph.constants)


def _read_file(path: Path, graph: _Graph) -> _Graph:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream, Mapped(descriptor, 0, access=mmap.ACCESS_READ) as data:
            del stream
            _read_model(data, graph)
            return graph
    except Malformed as error:
        raise BundleError(f"{path}: expected an ONNX graph of plain operators, got {error}; do not use it") from error
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise BundleError(f"{path}: cannot be read ({error}); export the bundle again") from error


def _read_model(data: Mapped, graph: _Graph) -> None:
    """Raises Malformed."""
    graphs = 0
    for number, value in fields(data, (0, len(data))):
        if number in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise Malformed("training information" if number == _MODEL_TRAINING else "functions")
        if not isinstance(value, tuple):
            continue
        if number == _MODEL_OPSETS:
            for inner, part in fields(data, value):
                if inner == _OPSET_DOMAIN:
                    graph.check_domain(text(data, part))
        elif number == _MODEL_GRAPH:
            graphs += 1
            _read_graph(data, value, graph)
    if graphs != 1:
        raise Malformed(f"{graphs} graphs")


def _read_graph(data: Mapped, span: Span, graph: _Graph) -> None:
    for number, value in fields(data, span):
        if not isinstance(value, tuple):
            continue
        if number == _GRAPH_NODE:
            if len(graph.nodes) >= MOST_NODES:
                raise Malformed(f"over {MOST_NODES} nodes")
            _read_node(data, value, graph)
        elif number == _GRAPH_INITIALIZER:
            name, size = _read_tensor(data, value, graph)
            graph.constants[name] = size
        elif number == _GRAPH_SPARSE:
            raise Malformed("sparse weights, which a load would spread out")


def _read_node(data: Mapped, span: Span, graph: _Graph) -> None:
    operator = domain = ""
    inputs: list[str] = []
    outputs: list[str] = []
    for number, value in fields(data, span):
        if number == _NODE_OPERATOR:
            operator = text(data, value)
        elif number == _NODE_DOMAIN:
            domain = text(data, value)
        elif number == _NODE_INPUT:
            inputs.append(text(data, value))
        elif number == _NODE_OUTPUT:
            outputs.append(text(data, value))
        elif number == _NODE_ATTRIBUTE and isinstance(value, tuple):
            _read_attribute(data, value, graph)
    graph.check_domain(domain)
    if operator in CONTROL_FLOW:
        raise Malformed(f"the control flow operator {operator}")
    graph.operators.add((domain, operator))
    graph.nodes.append(OnnxNode(operator, tuple(inputs), tuple(outputs)))


def _read_attribute(data: Mapped, span: Span, graph: _Graph) -> None:
    for number, value in fields(data, span):
        if number in _ATTRIBUTE_GRAPHS:
            raise Malformed("a graph inside a node")
        if number in _ATTRIBUTE_SPARSE:
            raise Malformed("sparse weights, which a load would spread out")
        if number in _ATTRIBUTE_TENSORS and isinstance(value, tuple):
            _read_tensor(data, value, graph)


def _read_tensor(data: Mapped, span: Span, graph: _Graph) -> tuple[str, int]:
    name, size, axes, outside, locations = "", 1, 0, False, 0
    for number, value in fields(data, span):
        if number == _TENSOR_DIMENSION:
            for dimension in numbers(data, value):
                size, axes = min(size * dimension, _MOST_SIZE), axes + 1
                if axes > MOST_AXES:
                    raise Malformed(f"a tensor of over {MOST_AXES} axes")
        elif number == _TENSOR_NAME:
            name = text(data, value)
        elif number == _TENSOR_LOCATION:
            outside = value == 1
        elif number == _TENSOR_EXTERNAL and isinstance(value, tuple):
            entry = {inner: part for inner, part in fields(data, value) if inner in (_ENTRY_KEY, _ENTRY_VALUE)}
            if _ENTRY_KEY in entry and text(data, entry[_ENTRY_KEY]) == "location":
                locations += 1
                graph.external.add(text(data, entry.get(_ENTRY_VALUE, (0, 0))))
    if outside and locations != 1:
        raise Malformed(f"a tensor outside the file with {locations} locations")
    return name, size


def numbers(data: Mapped, value: int | Span) -> Iterator[int]:
    """A repeated number's values, packed or one by one."""
    if not isinstance(value, tuple):
        yield value
        return
    place, end = value
    while place < end:
        number, place = _varint(data, place, end)
        yield number


def _computes_alone(graph: _Graph) -> bool:
    """Whether a node that may make much out of little reads nothing but constants.

    Sizes are upper bounds: whatever an operator does with its inputs, unless it is one of _GENERATORS, it makes no more
    numbers than their sizes multiplied.
    """
    sizes = dict(graph.constants)
    for operator, inputs, outputs in graph.nodes:
        if operator == "Constant":
            size = _FOLDED_NUMBERS  # it lies in the file, whose size bounds it; what is made of it is looked at
        elif all(name == "" or name in sizes for name in inputs):
            own = [sizes[name] for name in inputs if name]
            size = max(own, default=1) if operator in _BOUNDED else _product(own)
            if operator in _GENERATORS or (operator not in _BOUNDED and size > _FOLDED_NUMBERS):
                return True
        else:
            continue
        sizes.update(dict.fromkeys(outputs, size))
    return False


def _product(sizes: Sequence[int]) -> int:
    """Never larger than _MOST_SIZE: numbers of any length would take their time."""
    product = 1
    for size in sizes:
        product = min(product * size, _MOST_SIZE)
    return product


def text(data: Mapped, value: int | Span) -> str:
    if not isinstance(value, tuple):
        raise Malformed("a number where a name belongs")
    begin, end = value
    if end - begin > _TEXT_BYTES:
        raise Malformed(f"a name of {end - begin} bytes")
    try:
        return data[begin:end].decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("a name that is no UTF-8") from error


def fields(data: Mapped, span: Span, *, fixed: bool = False) -> Iterator[tuple[int, int | Span]]:
    """(field number, number or span of bytes) of each field in turn; the bytes of one float each only with `fixed`.

    Raises:
        Malformed: they are no protobuf message.
    """
    place, end = span
    while place < end:
        data.fields_read += 1
        if data.fields_read > MOST_FIELDS:
            raise Malformed(f"over {MOST_FIELDS} fields")
        key, place = _varint(data, place, end)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise Malformed("a field without a number")
        if kind == _BYTES:
            length, place = _varint(data, place, end)
            if length > end - place:
                raise Malformed("a field that is longer than the file")
            yield number, (place, place + length)
            place += length
        elif kind == _VARINT:
            value, place = _varint(data, place, end)
            yield number, value
        elif kind in _FIXED:
            place += _FIXED[kind]
            if place > end:
                raise Malformed("a field that is longer than the file")
            if fixed:
                yield number, (place - _FIXED[kind], place)
        else:
            raise Malformed(f"the wire type {kind}")


_FIXED: Mapping[int, int] = {_FIXED64: 8, _FIXED32: 4}


def _varint(data: Mapped, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for i in range(place, min(end, place + _VARINT_BYTES)):
        byte = data[i]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, i + 1
        shift += 7
    raise Malformed("a number without an end")
