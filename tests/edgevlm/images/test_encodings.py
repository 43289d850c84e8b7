"""`edgevlm.images.encodings`: a camera message's bytes seen in place, and compressed frames decoded."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgevlm.errors import ContractError, ShapeError
from edgevlm.images.encodings import ENCODINGS, decode, view
from edgevlm.manifest.contract import CHANNELS, Encoding


def test_the_encodings_are_the_contracts() -> None:
    assert set(ENCODINGS) == set(CHANNELS)


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    encoding=st.sampled_from(ENCODINGS),
    padding=st.integers(0, 7),
)
def test_a_view_finds_every_pixel_under_row_padding(height: int, width: int, encoding: Encoding, padding: int) -> None:
    channels = CHANNELS[encoding]
    step = width * channels + padding
    data = bytes(np.random.default_rng(1).integers(0, 256, step * height, np.uint8))
    image = view(data, height, width, encoding, step)
    assert image.shape == ((height, width) if channels == 1 else (height, width, channels))
    for y in range(height):
        row = data[y * step : y * step + width * channels]
        assert image[y].tobytes() == row


def test_a_view_shares_memory_and_is_as_writable_as_its_buffer() -> None:
    buffer = bytearray(12)
    image = view(buffer, 2, 2, "rgb8", 6)
    buffer[7] = 99
    assert image[1, 0, 1] == 99
    assert image.flags.writeable
    assert not view(bytes(12), 2, 2, "rgb8", 6).flags.writeable


def test_the_last_row_may_come_without_its_padding() -> None:
    assert view(bytes(range(7)), 2, 3, "mono8", 4).tolist() == [[0, 1, 2], [4, 5, 6]]


@pytest.mark.parametrize(
    ("size", "height", "width", "encoding", "step", "words"),
    [
        (12, 2, 2, "yuv422", 6, "expected one of"),
        (12, 2, 2, "rgb8", 5, "step >= 6"),
        (11, 2, 2, "rgb8", 6, "at least 12 bytes"),
        (12, 0, 2, "rgb8", 6, "at least 1x1"),
        (12, 2, -2, "rgb8", 6, "at least 1x1"),
    ],
)
def test_refuses_a_message_that_contradicts_itself(
    size: int, height: int, width: int, encoding: str, step: int, words: str
) -> None:
    with pytest.raises(ShapeError, match=words):
        view(bytes(size), height, width, encoding, step)


def picture() -> NDArray[np.uint8]:
    y, x = np.mgrid[0:24, 0:32]
    return np.stack([x * 8, y * 10, 255 - x * 4 - y * 4], axis=-1).astype(np.uint8)


def compressed(image: NDArray[np.uint8], format: str, **options: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format, **options)
    return stream.getvalue()


def test_png_is_exact_in_every_encoding() -> None:
    image = picture()
    data = compressed(image, "PNG")
    alpha = np.full((24, 32, 1), 255, np.uint8)
    expected = {
        "rgb8": image,
        "bgr8": image[:, :, ::-1],
        "rgba8": np.concatenate([image, alpha], axis=2),
        "bgra8": np.concatenate([image[:, :, ::-1], alpha], axis=2),
    }
    for encoding, pixels in expected.items():
        assert np.array_equal(decode(data, encoding), pixels), encoding
    grey = decode(data, "mono8")
    assert grey.shape == (24, 32)
    assert np.abs(grey.astype(int) - np.asarray(Image.fromarray(image).convert("L"))).max() <= 1


def test_jpeg_keeps_the_channel_order() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[:, :, 0] = 200
    pixel = decode(compressed(red, "JPEG", quality=95), "rgb8")[8, 8]
    assert pixel[0] > 190
    assert max(pixel[1], pixel[2]) < 10


def test_a_frame_with_a_few_bytes_of_padding_after_its_end_is_complete() -> None:
    assert decode(compressed(picture(), "JPEG") + bytes(16), "rgb8").shape == (24, 32, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_refuses_a_frame_that_was_cut(format: str, keep: float) -> None:
    data = compressed(picture(), format)
    with pytest.raises(ContractError, match="end is missing"):
        decode(data[: int(len(data) * keep)], "rgb8")


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(90), b"\xff\xd8" + bytes(80) + b"\xff\xd9"])
def test_refuses_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(ContractError, match="expected JPEG or PNG"):
        decode(data, "rgb8")


def test_refuses_an_unknown_encoding() -> None:
    with pytest.raises(ShapeError, match="16UC1"):
        decode(compressed(picture(), "PNG"), "16UC1")


def test_a_header_that_announces_more_pixels_than_there_can_be_is_refused() -> None:
    """OpenCV raises an error of its own for it, where it returns nothing for other damage."""
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(ContractError, match="cannot be decoded"):
        decode(bytes(data), "rgb8")
