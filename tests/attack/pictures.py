"""Compressed pictures of a camera topic, broken and hostile, through the reader of live topics and recordings."""

from __future__ import annotations

import random
import resource
import struct
import time
from pathlib import Path

import cv2
import numpy as np
from support.picture_files import SIZE, jpeg, png, png_bomb, png_chunk, resized, scene

from edgevlm.errors import EdgevlmError
from edgevlm.rosmsg.camera import CameraMessage

_FORMATS = (
    "jpeg",
    "png",
    "",
    "rgb8; jpeg compressed bgr8",
    "yuv422_yuy2; jpeg compressed mono8",
    "mono8; jpeg compressed ",
)
_MOST_MB, _MOST_S = 64, 1.0


class Pictures:
    """A picture that is taken has the contract's size; nothing takes more memory or time than one of that size does."""

    name, unit, limit_s, memory_mb = "pictures", "pictures", 20.0, 512

    def one(self, seed: int, directory: Path) -> str:
        rng = random.Random(seed)
        image, data = scene(seed=seed), b""
        original = rng.choice([jpeg(image), jpeg(image, PROGRESSIVE=1), jpeg(image, RST_INTERVAL=2), png(image)])
        data = rng.choice(_CHANGES)(rng, original)
        message = CameraMessage(1, "", True, rng.choice(_FORMATS), 0, 0, 0, memoryview(data))
        encoding = rng.choice(("rgb8", "bgr8", "rgba8", "bgra8", "mono8"))
        before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            picture = message.picture(encoding, SIZE)
        except EdgevlmError as error:
            assert len(str(error)) < 2000, "a refusal without an end"
            label = f"refused {type(error).__name__}"
        else:
            assert picture.shape[:2] == SIZE and picture.dtype == np.uint8, picture.shape
            label = "taken"
        grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
        assert grown_mb < _MOST_MB, f"{len(data)} bytes took {grown_mb} MB"
        assert (took_s := time.process_time() - begin) < _MOST_S, f"{len(data)} bytes took {took_s:.1f} s"
        return label


def _bytes(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 20)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _lost(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes(rng.choice((0, 50))) + data[at + rng.randint(1, 400) :]


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))] + bytes(rng.choice((0, 5000))) + rng.choice((b"", data[-12:]))


def _size(rng: random.Random, data: bytes) -> bytes:
    width, height = (rng.choice((0, 1, SIZE[1], 4096, 60_000)) for _ in range(2))
    if data.startswith(b"\xff"):
        return resized(data, width, height)
    return png_bomb(width, height, rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 6, 9)), rng.choice((0, 1)))


def _chunks(rng: random.Random, data: bytes) -> bytes:
    name = rng.choice((b"zTXt", b"iCCP", b"acTL", b"IDAT", b"PLTE", b"tRNS", b"IHDR", b"eXIf"))
    more = png_chunk(name, rng.randbytes(rng.randrange(300))) * rng.choice((1, 3, 5000))
    if data.startswith(b"\x89"):
        return data[:33] + more + data[33:]
    segment = b"\xff" + bytes((rng.randrange(0xC0, 0xFF),)) + struct.pack(">H", rng.choice((0, 2, 2, 65535)))
    return data[:2] + segment * rng.choice((1, 100, 20_000)) + data[2:]


def _joined(rng: random.Random, data: bytes) -> bytes:
    other = cv2.imencode(".jpg", np.zeros((500, 500), np.uint8))[1].tobytes()
    return rng.choice((data + other, other[:-2] + data, data * rng.randint(2, 200), b"", data))


_CHANGES = (_bytes, _lost, _cut, _size, _chunks, _joined)
