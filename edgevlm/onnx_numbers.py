"""Whether the numbers in an ONNX file are such as a model can have: finite, none absurdly large, every scale over 0.

What is quantized hides what is not finite: QuantizeLinear turns NaN and infinity into ordinary integers, and neither
the output of a stage nor the action says anything of it. It has to be told before a stage runs, from the file.

Weights are read in pieces where they lie, in one pass at about the speed of memory; tensors are never built.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import BundleError
from edgevlm.onnx_file import MOST_AXES, Malformed, Mapped, Span, fields, numbers, text

# Products of numbers up to this, of activations up to 128 scales, and sums of a million of them, stay within float32.
LARGEST = 1e9
# What attention adds where nothing may be seen, in models of Hugging Face: of single constants, this one is allowed.
HIDDEN = float(np.finfo(np.float32).min)

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INITIALIZER = 7, 1, 5
_NODE_INPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_FLOATS, _ATTRIBUTE_TENSORS = 1, 2, 7, (5, 10)
_DIMENSION, _TYPE, _FLOATS, _INTEGERS, _NAME, _RAW, _DOUBLES, _EXTERNAL, _PLACE = 1, 2, 4, 5, 8, 9, 10, 13, 14
_SCALED = frozenset({"QuantizeLinear", "DequantizeLinear"})  # their second input is a scale

_PIECE = 1 << 20  # bytes that are looked at in one go: they stay in the processor's cache
_UNPACKED = 1 << 12  # numbers that may stand one by one; more belong into raw_data


class _Kind(NamedTuple):
    """How one floating type lies in memory."""

    name: str
    integer: type[np.unsignedinteger[Any]]
    sign: int
    infinity: int  # its bits; NaN has larger ones
    shift: int = 0  # to the left, to be the `value` type
    value: str = "<f4"


_KINDS: Mapping[int, _Kind] = {
    1: _Kind("float32", np.uint32, 0x8000_0000, 0x7F80_0000),
    10: _Kind("float16", np.uint16, 0x8000, 0x7C00, 0, "<f2"),
    11: _Kind("float64", np.uint64, 1 << 63, 0x7FF0_0000_0000_0000, 0, "<f8"),
    16: _Kind("bfloat16", np.uint16, 0x8000, 0x7F80, 16),
}
_WHOLE = frozenset({0, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 21, 22})  # no type, integers, text, booleans


class _Numbers:
    """What is known of one tensor: the largest magnitude, the single value where it is one number, if a scale."""

    def __init__(self, *, scale: bool = False) -> None:
        self.largest, self.single, self.count = 0.0, 0.0, 0
        self.scale, self.positive = scale, True

    def add(self, values: NDArray[Any], kind: _Kind) -> None:
        """Take numbers as the unsigned integers that their bits are."""
        if not values.size:
            return
        largest = int((values & kind.integer(~kind.sign & (2 ** (8 * values.itemsize) - 1))).max())
        self.largest = max(self.largest, float("inf") if largest >= kind.infinity else _value(largest, kind))
        self.single, self.count = _value(int(values[0]), kind), self.count + values.size
        if self.scale:
            self.positive &= bool(((values > 0) & (values < kind.sign)).all())


def _value(bits: int, kind: _Kind) -> float:
    return float(np.frombuffer((bits << kind.shift).to_bytes(8, "little")[: int(kind.value[2])], kind.value)[0])


def check_numbers(path: Path) -> None:
    """Look at every float of a graph and of the weights beside it.

    Raises:
        BundleError: NaN, infinity, a number beyond LARGEST, or a scale that is not over 0; names the first.
    """
    with ExitStack() as opened:
        try:
            _Reader(path, opened).check()
        except Malformed as error:
            raise BundleError(f"{path}: expected numbers that a model can have, got {error}") from error
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise BundleError(f"{path}: cannot be read ({error}); export the bundle again") from error


def check_rows(path: Path, rows: NDArray[Any]) -> None:
    """As `check_numbers`, of one array of float16 or float32, read in pieces; others are left to their reader."""
    kind = {np.dtype("<f4"): _KINDS[1], np.dtype("<f2"): _KINDS[10]}.get(rows.dtype)
    if kind is None or not rows.size:
        return
    flat, known = np.asarray(rows).reshape(-1).view(kind.integer), _Numbers()
    step = _PIECE // rows.itemsize
    for begin in range(0, len(flat), step):
        known.add(flat[begin : begin + step], kind)
    try:
        _judge("the rows", known)
    except Malformed as error:
        raise BundleError(f"{path}: expected numbers that a model can have, got {error}") from error


class _Reader:
    def __init__(self, path: Path, opened: ExitStack) -> None:
        self._folder, self._opened = path.parent, opened
        self._files: dict[str, Mapped] = {}
        self._data = self._map(path)

    def _map(self, path: Path) -> Mapped:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "rb") as stream:
            return self._opened.enter_context(Mapped(stream.fileno(), 0, access=mmap.ACCESS_READ))

    def check(self) -> None:
        graphs = [span for number, span in fields(self._data, (0, len(self._data))) if number == _MODEL_GRAPH]
        tensors: list[Span] = []
        scales: set[str] = set()
        for graph in graphs:
            for number, span in fields(self._data, _part(graph)):
                if number == _GRAPH_INITIALIZER:
                    tensors.append(_part(span))
                elif number == _GRAPH_NODE:
                    self._node(_part(span), scales)
        for tensor in tensors:
            self._tensor(tensor, scales)

    def _node(self, span: Span, scales: set[str]) -> None:
        operator = ""
        inputs: list[str] = []
        attributes: list[Span] = []
        for number, value in fields(self._data, span):
            if number == _NODE_OPERATOR:
                operator = text(self._data, value)
            elif number == _NODE_INPUT:
                inputs.append(text(self._data, value))
            elif number == _NODE_ATTRIBUTE:
                attributes.append(_part(value))
        if operator in _SCALED and len(inputs) > 1:
            scales.add(inputs[1])
        for attribute in attributes:
            self._attribute(operator, attribute)

    def _attribute(self, operator: str, span: Span) -> None:
        name, known = "", _Numbers()
        for number, value in fields(self._data, span, fixed=True):
            if number == _ATTRIBUTE_NAME:
                name = text(self._data, value)
            elif number in _ATTRIBUTE_TENSORS:
                self._tensor(_part(value), set())
            elif number in (_ATTRIBUTE_FLOAT, _ATTRIBUTE_FLOATS):
                self._add(self._data, _part(value), _KINDS[1], known)
        _judge(f"{name!r} of a {operator}", known)

    def _tensor(self, span: Span, scales: set[str]) -> None:
        """One tensor, wherever its numbers stand."""
        name, size, axes, kind_number = "", 1, 0, 0
        spans: list[Span] = []
        integers: list[int | Span] = []
        outside: list[Span] = []
        for number, value in fields(self._data, span, fixed=True):
            if number == _NAME:
                name = text(self._data, value)
            elif number == _DIMENSION:
                for dimension in numbers(self._data, value):
                    size, axes = size * dimension, axes + 1
                    if axes > MOST_AXES:
                        raise Malformed(f"a tensor of over {MOST_AXES} axes")
            elif number == _TYPE and not isinstance(value, tuple):
                kind_number = value
            elif number in (_FLOATS, _DOUBLES, _RAW):
                spans.append(_part(value))
            elif number == _INTEGERS:
                integers.append(value)
            elif number == _EXTERNAL:
                outside.append(_part(value))
        if kind_number in _WHOLE:
            return
        if kind_number not in _KINDS:
            raise Malformed(f"{name!r} of a type that no stage has, number {kind_number} of ONNX; export it as float32")
        kind, known = _KINDS[kind_number], _Numbers(scale=name in scales)
        for part in spans:
            self._add(self._data, part, kind, known)
        self._integers(name, integers, kind, known)
        if outside:
            data, place = self._beside(outside, size * np.dtype(kind.integer).itemsize)
            self._add(data, place, kind, known)
        _judge(repr(name), known)

    def _integers(self, name: str, spans: list[int | Span], kind: _Kind, known: _Numbers) -> None:
        """Half floats that stand as integers, each by itself."""
        bits: list[int] = []
        for span in spans:
            for number in numbers(self._data, span):
                bits.append(number & (2 ** (8 * np.dtype(kind.integer).itemsize) - 1))
                if len(bits) > _UNPACKED:
                    raise Malformed(f"{name!r} with over {_UNPACKED} numbers one by one; export it with raw_data")
        known.add(np.array(bits, kind.integer), kind)

    def _beside(self, entries: list[Span], size: int) -> tuple[Mapped, Span]:
        """The file and the place of weights outside the graph."""
        known: dict[str, str] = {}
        for entry in entries:
            parts = {number: text(self._data, value) for number, value in fields(self._data, entry)}
            known[parts.get(1, "")] = parts.get(2, "")
        location = known.get("location", "")
        try:
            begin, length = int(known.get("offset", 0)), int(known.get("length", size))
        except ValueError as error:
            raise Malformed(f"weights at no place of {location!r}") from error
        if location not in self._files:
            self._files[location] = self._map(self._folder / location)
        data = self._files[location]
        if begin < 0 or length < size or begin + size > len(data):
            raise Malformed(f"weights at {begin} of {location!r} for {size} bytes, which has {len(data)}")
        return data, (begin, begin + size)

    def _add(self, data: Mapped, span: Span, kind: _Kind, known: _Numbers) -> None:
        itemsize = np.dtype(kind.integer).itemsize
        if (span[1] - span[0]) % itemsize:
            raise Malformed(f"{span[1] - span[0]} bytes of {kind.name}")
        for piece in _pieces(data, span):
            known.add(np.frombuffer(piece, np.dtype(kind.integer).newbyteorder("<")), kind)


def _pieces(data: Mapped, span: Span) -> Iterator[bytes]:
    """Copies, so that they lie where a processor reads them fast."""
    for begin in range(*span, _PIECE):
        yield data[begin : min(begin + _PIECE, span[1])]


def _judge(what: str, known: _Numbers) -> None:
    """Raises Malformed."""
    hidden = known.count == 1 and known.single == HIDDEN and not known.scale
    if not known.largest <= LARGEST and not hidden:
        got = f"numbers up to {known.largest:g}" if np.isfinite(known.largest) else "NaN or infinity"
        raise Malformed(
            f"{got} in {what:.200}; int8 would hide what comes of it: export from a sound checkpoint, or with fp32"
        )
    if not known.positive:
        raise Malformed(f"a scale {what:.200} that is not over 0; export the bundle again")


def _part(value: int | Span) -> Span:
    if not isinstance(value, tuple):
        raise Malformed("a number where a message belongs")
    return value
