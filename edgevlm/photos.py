"""Picture files to arrays, as a training pipeline's own reader gives them: JPEG and PNG (extra `vision`).

The pixels are those of Pillow's `ImageOps.exif_transpose(Image.open(path)).convert("RGB")`: turned as the Exif
orientation says, alpha dropped, grey repeated, 16-bit colour by its high byte, 16-bit grey clipped at 255.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import PictureError, require
from edgevlm.images import check_whole

MAX_PIXELS = 100_000_000  # 300 MB as RGB: more than any camera takes, less than a bomb
MAX_BYTES = 256 << 20

_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's start-of-frame markers
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


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    channels: int
    exif: bytes = b""


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
    check_whole(data, where, "convert it to one of them")
    header = _header(data, where)
    if header.width * header.height > MAX_PIXELS:
        raise PictureError(
            f"{where}: expected at most {MAX_PIXELS} pixels, its header says {header.width}x{header.height}: "
            "a decompression bomb, or a scan to be made smaller first"
        )
    if header.channels == 4 and data[0] == 0xFF:
        raise PictureError(f"{where}: expected grey or RGB, got a JPEG in CMYK; convert it to RGB")
    cv2 = require("cv2", extra="vision")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise PictureError(f"{where}: cannot be decoded ({error}); save it again") from error
    if image is None or image.shape[:2] != (header.height, header.width):
        raise PictureError(f"{where}: cannot be decoded, it is broken inside; save or copy it again")
    turn = _TURNS.get(_orientation(header.exif))
    upright = _rgb(image) if turn is None else turn(_rgb(image))
    return np.ascontiguousarray(upright)


def _rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """OpenCV's picture (grey, BGR or BGRA in 8 or 16 bits) as RGB."""
    if image.ndim == 2:
        grey = np.minimum(image, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    colour = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
    result: NDArray[np.uint8] = colour[:, :, 2::-1]
    return result


def _header(data: bytes, where: str) -> _Header:
    try:
        return _png_header(data) if data.startswith(b"\x89PNG") else _jpeg_header(data)
    except (struct.error, IndexError, KeyError) as error:
        raise PictureError(f"{where}: expected a header with the picture's size, found none; save it again") from error


def _png_header(data: bytes) -> _Header:
    chunks = dict(_png_chunks(data))
    width, height, _, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    return _Header(width, height, {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}[colour], chunks.get(b"eXIf", b""))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        if name in (b"IHDR", b"eXIf"):
            yield name, data[place + 8 : place + 8 + length]
        place += 12 + length


def _jpeg_header(data: bytes) -> _Header:
    place, exif, found = 2, b"", None
    while data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill
            place += 1
            continue
        if marker == _SCAN:
            break
        if marker in _ALONE:
            place += 2
            continue
        (length,) = struct.unpack_from(">H", data, place + 2)
        segment = data[place + 4 : place + 2 + length]
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            exif = exif or segment[6:]
        if marker in _SOF and found is None:
            height, width, channels = struct.unpack_from(">HHB", segment, 1)
            found = _Header(width, height, channels)
        place += 2 + length
    if found is None:
        raise KeyError("no frame")
    return replace(found, exif=exif)


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
