"""JPEG and PNG files as an enemy or a broken transport makes them."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = (48, 64)  # height, width
PNG = b"\x89PNG\r\n\x1a\n"


def scene(size: tuple[int, int] = SIZE, seed: int = 0) -> NDArray[np.uint8]:
    """Something like a picture, BGR: smooth, with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return np.clip(smooth + rng.integers(-4, 5, smooth.shape), 0, 255).astype(np.uint8)


def jpeg(image: NDArray[np.uint8], **options: int) -> bytes:
    flags = [value for name, number in options.items() for value in (getattr(cv2, f"IMWRITE_JPEG_{name}"), number)]
    return cv2.imencode(".jpg", image, flags)[1].tobytes()


def png(image: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_bomb(width: int, height: int, bits: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    """Black pixels, at most some megabytes of them whatever the header announces."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    pixels = zlib.compress(bytes(min((width * 3 + 1) * height, 1 << 22)), 9)
    return PNG + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def resized(data: bytes, width: int, height: int) -> bytes:
    """The JPEG with another size in its header."""
    at = next(data.find(bytes((0xFF, kind))) for kind in (0xC0, 0xC2) if bytes((0xFF, kind)) in data)
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]
