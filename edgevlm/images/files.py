"""Picture files to arrays, as a training pipeline's own reader gives them: JPEG and PNG (extra `vision`).

The pixels are those of Pillow's `ImageOps.exif_transpose(Image.open(path)).convert("RGB")`: turned as the Exif
orientation says, alpha dropped, grey repeated, 16-bit colour by its high byte, 16-bit grey clipped at 255.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import PictureError, require
from edgevlm.images.encodings import decode_jpeg
from edgevlm.images.header import MAX_PIXELS, ImageHeader, read_header

__all__ = ["MAX_BYTES", "MAX_PIXELS", "decode_photo", "open_photo"]

MAX_BYTES = 256 << 20

_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_SCAN = 0xDA
_ORIENTATION = 0x0112

# Exif orientation -> what makes the picture upright
_TURNS: Mapping[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image, 1),
}


def open_photo(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """A JPEG or PNG file as upright uint8 RGB (H, W, 3).

    Raises:
        PictureError: cannot be read, no JPEG or PNG, broken, CMYK, or with more than MAX_PIXELS.
        DependencyError: OpenCV is not installed.
    """
    where = f"picture {os.fspath(path)!r}"
    try:
        size = Path(path).stat().st_size
        if size > MAX_BYTES:
            raise PictureError(f"{where}: expected at most {MAX_BYTES} bytes, got {size}; make it smaller")
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise PictureError(f"{where}: cannot be read ({error}); give a JPEG or PNG file") from error
    return decode_photo(data, where)


def decode_photo(data: bytes, where: str) -> NDArray[np.uint8]:
    """As `open_photo`, from the bytes of a file; `where` begins every message."""
    header = read_header(data, where, "convert it to one of them")
    rgb = decode_jpeg(header, "rgb8", where) if header.kind == "jpeg" else _png(header, where)
    turn = _TURNS.get(_orientation(_exif(data)))
    upright = rgb if turn is None else turn(rgb)
    return np.ascontiguousarray(upright)


def _png(header: ImageHeader, where: str) -> NDArray[np.uint8]:
    cv2 = require("cv2", extra="vision")
    try:
        image = cv2.imdecode(np.frombuffer(header.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise PictureError(f"{where}: cannot be decoded ({error}); save it again") from error
    if image is None or image.shape[:2] != (header.height, header.width):
        raise PictureError(f"{where}: cannot be decoded, it is broken inside; save or copy it again")
    return _rgb(image)


def _rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """OpenCV's picture (grey, BGR or BGRA in 8 or 16 bits) as RGB."""
    if image.ndim == 2:
        grey = np.minimum(image, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    colour = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
    result: NDArray[np.uint8] = colour[:, :, 2::-1]
    return result


def _exif(data: bytes) -> bytes:
    """The first Exif block of a file whose header was read before; empty where there is none."""
    segments = _png_chunks(data) if data.startswith(b"\x89PNG") else _jpeg_segments(data)
    return next(segments, b"")


def _png_chunks(data: bytes) -> Iterator[bytes]:
    place = 8
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        if name == b"eXIf":
            yield data[place + 8 : place + 8 + length]
        place += 12 + length


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    place = 2
    while (marker := data[place + 1]) != _SCAN:
        if marker == 0xFF:  # fill
            place += 1
            continue
        if marker in _ALONE:
            place += 2
            continue
        (length,) = struct.unpack_from(">H", data, place + 2)
        segment = data[place + 4 : place + 2 + length]
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            yield segment[6:]
        place += 2 + length


def _orientation(exif: bytes) -> int:
    """The orientation tag of an Exif block; 1 where it says nothing that can be read."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * entry)
            if tag == _ORIENTATION and kind == 3:
                return int(value)
    except struct.error:
        return 1
    return 1
