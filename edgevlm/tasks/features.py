"""Features of a picture's regions, as a detector gives them: checked before a model reads them, or from a .npy file."""

from __future__ import annotations

import ast
import math
import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import ContractError, NonFiniteError, ShapeError
from edgevlm.manifest.stages import StageSpec

MAX_BYTES = 64 << 20  # 256 regions of 2048 numbers have 2 MB
MAX_HEADER, MAX_AXES = 10_000, 8

_LENGTH = {1: 2, 2: 4, 3: 4}  # version of the format -> bytes of the header's length
_NUMBERS = re.compile(r"\|[biu]1|[<>]([iu][248]|f[248])")

DETECT = "give what the detector that the model was trained with says of each region"


def open_features(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array of a .npy file, whatever numbers they are. Objects are never read: they would be code.

    Raises:
        ContractError: it cannot be read, has more than MAX_BYTES, or is no .npy file of numbers.
    """
    expectation = f"{os.fspath(path)}: expected a .npy file, float32 (regions, features)"
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a null byte in the name
        raise ContractError(f"{expectation}, got an error: {error!s:.200}; write it with numpy.save") from error
    if len(data) > MAX_BYTES:
        raise ContractError(f"{expectation}, got more than {MAX_BYTES} bytes; {DETECT}")
    try:
        return _parse(data)
    except _Unreadable as fault:
        raise ContractError(f"{expectation}, got {fault}; write one array with numpy.save") from fault


class _Unreadable(Exception):
    """What is wrong with the bytes of a file."""


def _parse(data: bytes) -> NDArray[Any]:
    """The array in the bytes of a .npy file. NumPy's own reader raises what it likes on a broken header."""
    if data[:4] == b"PK\x03\x04":
        raise _Unreadable("a ZIP archive, as numpy.savez writes it")
    if data[:6] != b"\x93NUMPY" or len(data) < 8 or data[6] not in _LENGTH:
        raise _Unreadable(f"bytes that begin with {data[:8]!r}")
    begin = 8 + _LENGTH[data[6]]
    end = begin + int.from_bytes(data[8:begin], "little")
    if len(data) < begin or len(data) < end or end - begin > MAX_HEADER:
        raise _Unreadable("a header that is cut off, or far too long")
    descr, shape, order = _described(data[begin:end])
    kind = np.dtype(descr)
    size = kind.itemsize * math.prod(shape)
    if len(data) - end != size:
        raise _Unreadable(f"{len(data) - end} bytes where {descr} {shape} has {size}")
    return np.frombuffer(bytearray(data[end:]), kind).reshape(shape, order=order)


def _described(header: bytes) -> tuple[str, tuple[int, ...], Literal["C", "F"]]:
    """(type, shape, order) of a header, which is a Python dict in letters."""
    try:
        fields = ast.literal_eval(header.decode("latin1").strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:  # all that it may raise
        raise _Unreadable("a header that cannot be read") from error
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise _Unreadable(f"the header {fields!r:.80}")
    descr, shape, turned = fields["descr"], fields["shape"], fields["fortran_order"]
    if not isinstance(descr, str) or not _NUMBERS.fullmatch(descr):
        raise _Unreadable(f"the type {descr!r:.40}, where integers and floats are read")
    if not isinstance(shape, tuple) or not all(type(side) is int and 0 <= side <= MAX_BYTES for side in shape):
        raise _Unreadable(f"the shape {shape!r:.80}")
    if len(shape) > MAX_AXES or not isinstance(turned, bool):
        raise _Unreadable(f"{len(shape)} axes in the order {turned!r:.20}")
    return descr, shape, "F" if turned else "C"


def feature_limits(stage: StageSpec, port: str) -> tuple[int, int, int]:
    """(fewest regions, most regions, V) that a port (1, R, V) of the stage takes."""
    _, regions, width = next(one.shape for one in stage.inputs if one.name == port)
    low, _, high = stage.dynamic[regions] if isinstance(regions, str) else (regions,) * 3
    return low, high, int(width)


def check_features(features: Any, stage: StageSpec, port: str) -> NDArray[np.float32]:
    """`features`, if they fit the port (1, R, V) of the stage.

    Raises:
        ShapeError: no float32 array, another width, no region, or more than the stage takes.
        NonFiniteError: NaN or infinity.
    """
    low, high, width = feature_limits(stage, port)
    expectation = f"features: expected a float32 array ({low} to {high} regions, {width} features)"
    if not isinstance(features, np.ndarray) or features.dtype != np.float32:
        got = f"{features.dtype} {features.shape}" if isinstance(features, np.ndarray) else f"{features!r:.80}"
        raise ShapeError(f"{expectation}, got {got}; {DETECT}")
    if features.ndim != 2 or features.shape[1] != width or not low <= features.shape[0] <= high:
        raise ShapeError(f"{expectation}, got {features.shape}; {DETECT}")
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise NonFiniteError(f"features: expected finite numbers, got NaN or infinity in region {row}; {DETECT}")
    return features
