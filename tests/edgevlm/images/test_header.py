"""What a compressed picture announces is bounded before it is decoded, and lost bytes are told."""

from __future__ import annotations

import resource
import time
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.picture_files import PNG, SIZE, jpeg, png, png_bomb, png_chunk, resized, scene

from edgevlm.errors import ContractError, PictureError, ShapeError
from edgevlm.images.encodings import decode
from edgevlm.images.files import decode_photo
from edgevlm.images.header import MAX_PIXELS, read_header

SCENE = scene((480, 640))
JPEGS = {
    "baseline": jpeg(SCENE),
    "restarts": jpeg(SCENE, RST_INTERVAL=4),
    "progressive": jpeg(SCENE, PROGRESSIVE=1),
    "optimized": jpeg(SCENE, OPTIMIZE=1),
    "grey": jpeg(cv2.cvtColor(SCENE, cv2.COLOR_BGR2GRAY)),
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("padding", [b"", bytes(16), bytes(5000)])
def test_a_sound_jpeg_gives_opencvs_pixels_however_it_is_padded(kind: str, padding: bytes) -> None:
    flags = cv2.IMREAD_COLOR
    expected = cv2.imdecode(np.frombuffer(JPEGS[kind], np.uint8), flags)
    assert np.array_equal(decode(JPEGS[kind] + padding, "bgr8", (480, 640)), expected)
    assert np.array_equal(decode_photo(JPEGS[kind] + padding, "it"), expected[:, :, ::-1])


@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from(sorted({*JPEGS} - {"progressive"})), part=st.floats(0.1, 0.9), count=st.integers(100, 2000))
def test_a_jpeg_that_lost_bytes_in_the_middle_is_damaged(kind: str, part: float, count: int) -> None:
    data = JPEGS[kind]
    begin = data.find(b"\xff\xda") + 20
    at = begin + int((len(data) - begin) * part)
    damaged = data[:at] + data[at + count :]
    if not damaged.endswith(b"\xff\xd9"):
        return
    with pytest.raises(PictureError):
        decode(damaged, "rgb8")
    with pytest.raises(PictureError):
        decode_photo(damaged, "it")


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    grey=st.booleans(),
    quality=st.integers(1, 100),
    progressive=st.integers(0, 1),
)
def test_no_sound_jpeg_counts_as_damaged(height: int, width: int, grey: bool, quality: int, progressive: int) -> None:
    image = scene((height, width), seed=quality)
    displayed = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if grey else image
    for restarts in (0, 1):
        data = jpeg(displayed, QUALITY=quality, PROGRESSIVE=progressive, RST_INTERVAL=restarts)
        assert decode(data, "rgb8").shape == (height, width, 3)
    assert not np.any(decode(jpeg(np.zeros((height, width, 3), np.uint8)), "mono8"))


BOMBS = {
    "png": png_bomb(20_000, 20_000),
    "png, within the bound of pixels": png_bomb(9_999, 9_999),
    "png, interlaced": png_bomb(9_000, 9_000, interlaced=1),
    "png, 16 bits": png_bomb(9_000, 9_000, bits=16),
    "png, the largest": png_bomb((1 << 31) - 1, (1 << 31) - 1),
    "jpeg": resized(JPEGS["baseline"], 65_000, 65_000),
    "jpeg, progressive": resized(JPEGS["progressive"], 65_000, 65_000),
    "jpeg, no height": resized(JPEGS["baseline"], 640, 0),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_from_its_header(kind: str) -> None:
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ContractError):
        decode(BOMBS[kind], "rgb8", SIZE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10  # kB
    assert time.process_time() - begin < 0.2


def test_without_a_size_pixels_are_bounded() -> None:
    with pytest.raises(PictureError, match=str(MAX_PIXELS)):
        decode(BOMBS["png"], "rgb8")


HEAD = png_chunk(b"IHDR", png(scene())[16:29])
BODY = png(scene())[33:]
REFUSED = {
    "arithmetic": (JPEGS["baseline"].replace(b"\xff\xc0", b"\xff\xc9", 1), "SOF9"),
    "lossless": (JPEGS["baseline"].replace(b"\xff\xc0", b"\xff\xc3", 1), "SOF3"),
    "12 bits": (JPEGS["baseline"].replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c", 1), "8 bits"),
    "scans": (JPEGS["progressive"][:-2] + b"\xff\xda" * 40 + b"\xff\xd9", "scans"),
    "animated": (PNG + HEAD + png_chunk(b"acTL", bytes(8)) + BODY, "animation"),
    "many texts": (PNG + HEAD + png_chunk(b"tEXt", b"a\0b") * 100 + BODY, "chunks"),
    "many pieces": (PNG + HEAD + png_chunk(b"IDAT", b"") * 10_000 + BODY, "chunks"),
    "changed": (png(scene())[:200] + b"\x55\xaa" + png(scene())[202:], "checksum"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_camera_writes_is_refused_before_it_is_decoded(kind: str) -> None:
    data, message = REFUSED[kind]
    with pytest.raises(PictureError, match=message):
        decode(data, "rgb8")


def test_a_png_of_16_bits_is_not_one_of_8() -> None:
    with pytest.raises(ShapeError, match="expected 8 bits"):
        decode(png(scene().astype(np.uint16) * 4), "rgb8")


def test_texts_that_decompress_to_megabytes_are_never_decompressed() -> None:
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(7 << 20), 9))
    header = read_header(PNG + HEAD + text * 60 + BODY, "it", "")
    assert len(header.data) < 20_000
    assert np.array_equal(decode(PNG + HEAD + text * 60 + BODY, "bgr8"), scene())


def test_alpha_is_the_files_own() -> None:
    rgba = np.dstack([scene(), np.full(SIZE, 77, np.uint8)])
    assert np.array_equal(decode(png(rgba), "bgra8"), rgba)
    assert np.array_equal(decode(png(rgba), "rgba8"), rgba[:, :, [2, 1, 0, 3]])
