"""Picture files: the pixels that Pillow gives, and a typed error for everything that is none."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from edgevlm.errors import PictureError
from edgevlm.images.files import MAX_PIXELS, decode_photo, open_photo

RANDOM = np.random.default_rng(5)
RGB = RANDOM.integers(0, 256, (9, 14, 3), np.uint8)
GREY = RANDOM.integers(0, 256, (9, 14), np.uint8)


def upstream(data: bytes) -> Any:
    """What transformers.image_utils.load_image does with a path."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def file(image: Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def png16(shape: tuple[int, ...]) -> bytes:
    return bytes(cv2.imencode(".png", RANDOM.integers(0, 65536, shape, np.uint16))[1])


def turned(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file(Image.fromarray(RGB), kind, exif=exif.tobytes())


MODES = {
    "rgb": file(Image.fromarray(RGB)),
    "jpeg": file(Image.fromarray(RGB), "JPEG", quality=90),
    "progressive": file(Image.fromarray(RGB), "JPEG", progressive=True, subsampling=2),
    "grey-jpeg": file(Image.fromarray(GREY), "JPEG"),
    "grey": file(Image.fromarray(GREY)),
    "grey-alpha": file(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(255 - GREY)])),
    "rgba": file(Image.fromarray(np.dstack([RGB, GREY]))),
    "palette": file(Image.fromarray(RGB).quantize(7)),
    "palette-clear": file(Image.fromarray(RGB).quantize(7), transparency=2),
    "colour-key": file(Image.fromarray(RGB), transparency=tuple(int(v) for v in RGB[0, 0])),
    "bits": file(Image.fromarray(GREY > 127)),
    "grey16": png16((9, 14)),
    "rgb16": png16((9, 14, 3)),
    "rgba16": png16((9, 14, 4)),
    "pixel": file(Image.fromarray(RGB[:1, :1])),
    **{f"{kind}-turned-{n}": turned(n, kind) for n in range(1, 9) for kind in ("JPEG", "PNG")},
}


@pytest.mark.parametrize("name", MODES)
def test_the_pixels_are_pillows(name: str) -> None:
    got = decode_photo(MODES[name], name)
    assert got.dtype == np.uint8 and got.flags.c_contiguous
    np.testing.assert_array_equal(got, upstream(MODES[name]))


def test_an_orientation_that_is_ignored_would_show() -> None:
    assert not np.array_equal(decode_photo(MODES["PNG-turned-3"], ""), decode_photo(MODES["PNG-turned-1"], ""))
    assert decode_photo(MODES["JPEG-turned-6"], "").shape == (14, 9, 3)


def bomb(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def cmyk() -> bytes:
    return file(Image.fromarray(np.dstack([RGB, GREY]), "RGBA").convert("RGB").convert("CMYK"), "JPEG")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected JPEG or PNG"),
        (b"GIF89a" + bytes(50), "expected JPEG or PNG"),
        (b"<html>" + bytes(50), "expected JPEG or PNG"),
        (MODES["jpeg"][:200], "its end is missing"),
        (MODES["rgb"][:-30], "its end is missing"),
        (bomb(100_000, 100_000), "decompression bomb"),
        (bomb(MAX_PIXELS + 1, 1), "decompression bomb"),
        (bomb(4, 4)[:20] + bomb(4, 4)[-12:], "header"),
        (b"\xff\xd8\xff\xd9", "header"),
        (b"\xff\xd8\xff\xe0\x00\x04ab" + b"\xff\xd9", "header"),
        (cmyk(), "CMYK"),
    ],
)
def test_what_is_no_picture_is_a_typed_error(data: bytes, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        decode_photo(data, "it")


def test_a_broken_inside_is_a_typed_error() -> None:
    data = bytearray(MODES["rgb"])
    place = data.index(b"IDAT")
    data[place + 6 : place + 30] = bytes(24)
    with pytest.raises(PictureError, match="cannot be decoded"):
        decode_photo(bytes(data), "it")


@pytest.mark.parametrize("name", ["nowhere.png", "", "a\0b", "."])
def test_a_path_that_cannot_be_read_is_a_typed_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="cannot be read"):
        open_photo(str(tmp_path / name) if "\0" not in name else name)


def test_a_path_and_its_bytes_are_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(MODES["rgba"])
    np.testing.assert_array_equal(open_photo(tmp_path / "a.png"), decode_photo(MODES["rgba"], ""))
