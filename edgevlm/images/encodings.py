"""Camera messages to arrays: raw bytes seen in place, JPEG and PNG decoded (extra `vision`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import ContractError, PictureError, ShapeError, require
from edgevlm.images.header import JPEG_END, ImageHeader, read_header
from edgevlm.manifest.contract import CHANNELS, Encoding

ENCODINGS: tuple[Encoding, ...] = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8")

Buffer = bytes | bytearray | memoryview | NDArray[np.uint8]

_COLOURS: Mapping[Encoding, str] = {  # simplejpeg's names
    "rgb8": "RGB",
    "bgr8": "BGR",
    "rgba8": "RGBA",
    "bgra8": "BGRA",
    "mono8": "GRAY",
}
_SURPLUS_BYTES = 4  # a decoder reads so far ahead


def check_encoding(encoding: str) -> Encoding:
    """`encoding` itself if it is one of ENCODINGS.

    Raises:
        ShapeError: another one, such as yuv422 or 16UC1.
    """
    for known in ENCODINGS:
        if encoding == known:
            return known
    raise ShapeError(
        f"image encoding: expected one of {list(ENCODINGS)}, got {encoding!r}; convert in the camera driver"
    )


def view(buffer: Buffer, height: int, width: int, encoding: str, step: int) -> NDArray[np.uint8]:
    """A `sensor_msgs/Image`'s bytes as (height, width, channels), mono8 as (height, width), without a copy.

    `step` is the length of a row in bytes, padding included. The array shares the buffer's memory and is read-only
    where the buffer is.

    Raises:
        ShapeError: an unknown encoding, no pixels, a step shorter than a row, or too few bytes.
    """
    channels = CHANNELS[check_encoding(encoding)]
    row = width * channels
    if min(height, width) < 1 or step < row:
        raise ShapeError(
            f"image: expected at least 1x1 pixel and step >= {row} for {width} pixels of {encoding}, "
            f"got {width}x{height} with step {step}; check the camera driver"
        )
    data = np.frombuffer(buffer, np.uint8)
    needed = step * (height - 1) + row
    if data.size < needed:
        raise ShapeError(
            f"image: expected at least {needed} bytes for {width}x{height} {encoding} with step {step}, "
            f"got {data.size}; the message was cut or its fields do not belong together"
        )
    shape, strides = (height, width, channels), (step, channels, 1)
    dimensions = 2 if channels == 1 else 3
    return np.ndarray(shape[:dimensions], np.uint8, data, strides=strides[:dimensions])


def decode(data: bytes, encoding: str, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """A whole JPEG or PNG file as (H, W, channels) in `encoding`, mono8 as (H, W).

    Orientation tags are ignored: pixels lie as the sensor read them. Alpha is 255 where the file has none.

    Args:
        size: (height, width) that the file must announce; it is compared before anything is decoded.

    Raises:
        ShapeError: an unknown encoding, another size, or a file of other than 8 bits.
        ContractError: no JPEG or PNG, one that is cut, lost bytes or is broken, or with more than MAX_PIXELS.
        DependencyError: OpenCV or simplejpeg is not installed.
    """
    target = check_encoding(encoding)
    what = f"compressed image of {len(data)} bytes"
    header = read_header(data, what, "set the camera's transport to jpeg or png")
    check_header(header, what, size)
    if header.kind == "jpeg":
        return decode_jpeg(header, target, what)
    cv2 = require("cv2", extra="vision")
    has_alpha = target in ("rgba8", "bgra8") and header.channels == 4
    flags = cv2.IMREAD_GRAYSCALE if target == "mono8" else cv2.IMREAD_UNCHANGED if has_alpha else cv2.IMREAD_COLOR
    image = _imdecode(header.data, flags if has_alpha else flags | cv2.IMREAD_IGNORE_ORIENTATION, what)
    code = {"rgba8": cv2.COLOR_BGRA2RGBA, "bgra8": None}[target] if has_alpha else _conversions(cv2)[target]
    result: NDArray[np.uint8] = image if code is None else cv2.cvtColor(image, code)
    return result


def check_header(header: ImageHeader, what: str, size: tuple[int, int] | None = None) -> None:
    """Refuse a file of another size (height, width), or of other than 8 bits.

    Raises:
        ShapeError: which.
    """
    if size is not None and (header.height, header.width) != size:
        raise ShapeError(
            f"{what}: expected {size[1]}x{size[0]}, its header says {header.width}x{header.height}; "
            "set the camera's resolution"
        )
    if header.bits != 8:
        raise ShapeError(
            f"{what}: expected 8 bits of each channel, its header says {header.bits}: depth, or a raw sensor; "
            "map the colour topic, or convert in the driver"
        )


def decode_jpeg(header: ImageHeader, encoding: Encoding, what: str) -> NDArray[np.uint8]:
    """A JPEG by a decoder that tells of lost bytes, where OpenCV gives a picture with shifted or grey parts.

    Raises:
        PictureError: bytes were lost or changed, as far as that can be told: fewer or more pixels than announced.
        DependencyError: simplejpeg is not installed.
    """
    library = require("simplejpeg", extra="vision")
    try:
        image: NDArray[np.uint8] = library.decode_jpeg(header.data, _COLOURS[encoding])
    except ValueError as error:
        raise PictureError(
            f"{what}: cannot be decoded, bytes of it were lost or changed ({error}); expected a sound JPEG or PNG, "
            "drop it, or copy it again"
        ) from error
    if _has_surplus(library, header):
        raise PictureError(
            f"{what}: cannot be decoded, bytes of it were lost or changed (it holds more than its pixels); "
            "drop it, or copy it again"
        )
    return image[:, :, 0] if encoding == "mono8" else image


def _has_surplus(library: Any, header: ImageHeader) -> bool:
    """Whether the last bytes of the pixels are not needed for them: what came before was decoded out of step."""
    end = header.data.find(JPEG_END, header.pixels_at)
    pixels = header.data[:end].rstrip(b"\xff\0")
    try:
        library.decode_jpeg(pixels[:-_SURPLUS_BYTES] + JPEG_END, "GRAY", fastdct=True, min_height=1, min_width=1)
    except ValueError:
        return False
    return True


def _imdecode(data: bytes, flags: int, what: str) -> NDArray[Any]:
    cv2 = require("cv2", extra="vision")
    broken = f"{what}: expected JPEG or PNG, it cannot be decoded; check the driver"
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ContractError(broken) from error
    if image is None:
        raise ContractError(broken)
    result: NDArray[Any] = image
    return result


def _conversions(cv2: object) -> Mapping[Encoding, int | None]:
    """OpenCV decodes to BGR; which conversion gives the encoding."""
    names: Mapping[Encoding, str | None] = {
        "rgb8": "COLOR_BGR2RGB",
        "bgr8": None,
        "rgba8": "COLOR_BGR2RGBA",
        "bgra8": "COLOR_BGR2BGRA",
        "mono8": None,
    }
    return {encoding: None if name is None else getattr(cv2, name) for encoding, name in names.items()}
