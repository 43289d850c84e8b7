"""Camera messages to arrays: raw bytes seen in place, JPEG and PNG decoded (extra `vision`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgevlm.contract import CHANNELS, Encoding
from edgevlm.errors import ContractError, PictureError, ShapeError, require

ENCODINGS: tuple[Encoding, ...] = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8")

Buffer = bytes | bytearray | memoryview | NDArray[np.uint8]

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_TAIL_BYTES = 64  # drivers pad compressed frames with a few zeros


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


def decode(data: bytes, encoding: str) -> NDArray[np.uint8]:
    """A whole JPEG or PNG file as (H, W, channels) in `encoding`, mono8 as (H, W).

    Orientation tags are ignored: pixels lie as the sensor read them. Alpha is 255 where the file has none.

    Raises:
        ShapeError: an unknown encoding.
        ContractError: no JPEG or PNG, or one that is cut or broken.
        DependencyError: OpenCV is not installed.
    """
    wanted = check_encoding(encoding)
    check_whole(data, f"compressed image of {len(data)} bytes", "set the camera's transport to jpeg or png")
    cv2 = require("cv2", extra="vision")
    flags = cv2.IMREAD_GRAYSCALE if wanted == "mono8" else cv2.IMREAD_COLOR
    broken = f"compressed image of {len(data)} bytes: expected JPEG or PNG, it cannot be decoded; check the driver"
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # a header that announces more pixels than OpenCV allows
        raise ContractError(broken) from error
    if image is None:
        raise ContractError(broken)
    code = _conversions(cv2)[wanted]
    result: NDArray[np.uint8] = image if code is None else cv2.cvtColor(image, code)
    return result


def check_whole(data: bytes, what: str, hint: str) -> None:
    """Refuse what OpenCV would decode to a picture with a grey lower half; `what` and `hint` go into the message.

    Raises:
        PictureError: no JPEG or PNG, or one whose end is missing.
    """
    ends = {_JPEG_START: _JPEG_END, _PNG_START: _PNG_END}
    end = next((end for start, end in ends.items() if data.startswith(start)), None)
    if end is None:
        raise PictureError(f"{what}: expected JPEG or PNG, got bytes that start with {data[:8].hex(' ')!r}; {hint}")
    if end not in data[-_TAIL_BYTES:]:
        raise PictureError(f"{what}: its end is missing, it was cut; drop it, or copy it again")


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
