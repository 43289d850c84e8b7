"""Camera messages: Image and CompressedImage as CDR bytes -> uint8 pictures in the contract's encoding."""

from __future__ import annotations

import functools
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import DependencyError, LogError, ShapeError, require
from edgevlm.images import encodings as images
from edgevlm.images.header import ImageHeader, read_header
from edgevlm.manifest.contract import CHANNELS, CameraSpec, CheckedFrame, Encoding
from edgevlm.rosmsg.schemas import COMPRESSED_IMAGE

_NS = 1_000_000_000
_ORDERS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}  # to RGB, and back
_MORE_BITS = re.compile(r"16$|^(8S|16[USF]|32[SF]|64F)C")  # sensor_msgs/image_encodings
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)


class Cdr:
    """Reads the few kinds of fields that camera messages have.

    Source: OMG Common Data Representation: 4 bytes of encapsulation, then values aligned to their size.
    """

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 4
        self._order = "<" if data[1] & 1 else ">"

    def uint32(self) -> int:
        """An unsigned number of 4 bytes."""
        self._at += -self._at % 4
        (value,) = struct.unpack_from(f"{self._order}I", self._data, self._at)
        self._at += 4
        return int(value)

    def byte(self) -> int:
        """An unsigned number of 1 byte."""
        value = self._data[self._at]
        self._at += 1
        return value

    def raw(self) -> memoryview:
        """A sequence of bytes with its length before it, seen in place.

        Raises:
            ValueError: the message ends before it.
        """
        length = self.uint32()
        if self._at + length > len(self._data):
            raise ValueError(f"{length} bytes announced, {len(self._data) - self._at} there")
        value = self._data[self._at : self._at + length]
        self._at += length
        return value

    def string(self) -> str:
        """Text, which CDR ends with a zero."""
        return bytes(self.raw()).rstrip(b"\0").decode("utf-8", "replace")

    def stamp_ns(self) -> int:
        """A header's stamp in nanoseconds."""
        seconds = self.uint32()
        return seconds * _NS + self.uint32()


def header_stamp_ns(data: bytes) -> int:
    """The stamp of a message that starts with a std_msgs/Header.

    Raises:
        ValueError: the message is too short for one.
    """
    try:
        return Cdr(data).stamp_ns()
    except (struct.error, IndexError) as error:
        raise ValueError(f"{len(data)} bytes hold no header") from error


@dataclass(frozen=True)
class CameraMessage:
    """What an Image or a CompressedImage says; its bytes are seen in place.

    Attributes:
        encoding: of a raw picture; the format text of a compressed one.
        height, width, step: 0 for a compressed picture, which knows them only when it is decoded.
    """

    stamp_ns: int
    frame_id: str
    compressed: bool
    encoding: str
    height: int
    width: int
    step: int
    data: memoryview

    def header(self) -> ImageHeader:
        """What the file in a compressed message announces; it is not decoded.

        `format` is judged first: the bytes of a depth topic are no picture, and no transport makes them one.

        Raises:
            LogError: `format` names depth, more than 8 bits, or swapped colours.
            ContractError: no JPEG or PNG, or one that is cut or broken as far as its header tells.
        """
        if (problem := _named_problem(self.encoding)) is not None:
            raise LogError(problem)
        hint = f"its format is {self.encoding!r:.80}: set the camera's transport to jpeg or png"
        return read_header(bytes(self.data), self._what, hint)

    def picture(self, encoding: Encoding, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """The picture in an encoding; without a copy where it has that already.

        Args:
            size: (height, width) that it must have; of a compressed picture compared before it is decoded.

        Raises:
            LogError: it holds depth, or `format` says that its pixels are not the camera's colours.
            ShapeError: it is in an encoding that is none of 8 bits, of another size, or its size and bytes do not fit.
            ContractError: a compressed picture that cannot be decoded, or lost bytes.
            DependencyError: OpenCV or simplejpeg, for compressed pictures, is not installed.
        """
        if self.compressed:
            header = self.header()
            images.check_header(header, self._what, size)
            if (problem := format_problem(self.encoding, header, encoding)) is not None:
                raise LogError(problem)
            return images.decode(header.data, encoding, size)
        if size is not None and (self.height, self.width) != size:
            raise ShapeError(
                f"image: expected {size[1]}x{size[0]}, got {self.width}x{self.height}; set the camera's resolution"
            )
        image = images.view(self.data, self.height, self.width, self.encoding, self.step)
        have = images.check_encoding(self.encoding)
        return image if have == encoding else reorder(image, have, encoding)

    def frame(self, camera: CameraSpec) -> CheckedFrame:
        """The picture as the camera's contract wants it. Raises as `picture` does."""
        return CheckedFrame(self.picture(camera.encoding, (camera.height, camera.width)))

    @property
    def _what(self) -> str:
        return f"compressed image of {len(self.data)} bytes"


def format_problem(form: str, header: ImageHeader | None, target: Encoding) -> str | None:
    """Why a compressed picture is not what a contract's encoding means, from its `format`; None: it is.

    compressed_image_transport writes "ENCODING; CODEC compressed TARGET"; what it takes for no colour, such as YUV and
    Bayer, is compressed as it lies there. Others write the codec only.

    Args:
        header: of the file; None: only what `format` alone tells.
    """
    if (problem := _named_problem(form)) is not None or header is None or not header.grey:
        return problem
    encoding, _ = _named(form)
    if encoding.startswith("bayer_"):
        return f"format {form!r:.80}: expected a picture, got the mosaic of its sensor; debayer before compressing"
    if target != "mono8" and encoding not in ("mono8", "8UC1"):
        return (
            f"format {form!r:.80}: expected colours for {target}, the file holds grey only; convert to rgb8 or bgr8 "
            "before compressing, or name the format 'mono8; jpeg compressed mono8' if the camera is grey"
        )
    return None


def _named(form: str) -> tuple[str, str]:
    """ENCODING and TARGET of a `format`."""
    encoding, _, rest = (part.strip() for part in form.partition(";"))
    return encoding, rest.partition("compressed")[2].strip()


def _named_problem(form: str) -> str | None:
    """What `format` alone tells against a picture."""
    encoding, target = _named(form)
    if any(kind in form for kind in ("compressedDepth", "16UC1", "32FC1")):
        return f"format {form!r:.80} holds depth, and the contract wants a picture; map the colour topic"
    if _MORE_BITS.search(encoding) or _MORE_BITS.search(target):
        return f"format {form!r:.80}: expected 8 bits of each channel; convert in the driver"
    if target.startswith("rgb"):
        return (
            f"format {form!r:.80}: readers disagree whether red and blue are swapped in the file; "
            "publish it as 'rgb8; jpeg compressed bgr8', as compressed_image_transport does"
        )
    return None


def read_message(type_name: str, data: bytes) -> CameraMessage:
    """The fields of a camera message.

    Raises:
        LogError: the message is damaged.
    """
    try:
        cdr = Cdr(data)
        stamp_ns, frame_id = cdr.stamp_ns(), cdr.string()
        if type_name == COMPRESSED_IMAGE:
            return CameraMessage(stamp_ns, frame_id, True, cdr.string(), 0, 0, 0, cdr.raw())
        height, width, encoding = cdr.uint32(), cdr.uint32(), cdr.string()
        cdr.byte()  # is_bigendian means nothing for 8 bits
        step, pixels = cdr.uint32(), cdr.raw()
    except (struct.error, IndexError, ValueError) as error:
        raise LogError(f"the message is damaged ({error})") from error
    return CameraMessage(stamp_ns, frame_id, False, encoding, height, width, step, pixels)


def read_frame(type_name: str, data: bytes, camera: CameraSpec) -> CheckedFrame:
    """One camera message as the contract wants it: uint8 `camera.shape` in `camera.encoding`.

    Rows of a raw picture may be padded. Pixels are never scaled.

    Raises:
        LogError: a message that is damaged, or holds depth.
        ShapeError: a picture of another size than the contract's, or in an encoding that is none of 8 bits.
        ContractError: a compressed picture that cannot be decoded.
        DependencyError: OpenCV, for compressed pictures, is not installed.
    """
    return read_message(type_name, data).frame(camera)


def reorder(image: NDArray[np.uint8], have: Encoding, want: Encoding) -> NDArray[np.uint8]:
    """The same picture in another encoding; gray uses the weights of ITU-R BT.601, missing alpha is 255."""
    cv2 = _opencv()
    if cv2 is not None and {have, want} == {"rgb8", "bgr8"}:
        swapped: NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # the same bytes, ten times as fast
        return swapped
    order = None if have == "mono8" else _ORDERS[have]  # where red, green and blue lie
    if want == "mono8":
        rgb = np.repeat(image[:, :, None], 3, axis=2) if order is None else image[:, :, order]
        gray: NDArray[np.float32] = rgb.astype(np.float32) @ _GRAY + np.float32(0.5)
        return gray.astype(np.uint8)
    out = np.empty((*image.shape[:2], CHANNELS[want]), np.uint8)
    for colour, channel in enumerate(_ORDERS[want]):  # plane by plane: much faster than to index all three at once
        out[:, :, channel] = image if order is None else image[:, :, order[colour]]
    if want in ("rgba8", "bgra8"):
        out[:, :, 3] = image[:, :, 3] if have in ("rgba8", "bgra8") else 255
    return out


@functools.cache
def _opencv() -> Any:
    """OpenCV, or None where it is not installed."""
    try:
        return require("cv2", extra="vision")
    except DependencyError:
        return None
