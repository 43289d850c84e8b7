"""Camera messages: Image and CompressedImage as CDR bytes -> uint8 pictures in the contract's encoding."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from edgevlm import images
from edgevlm.bags.messages import COMPRESSED_IMAGE
from edgevlm.contract import CameraSpec, Encoding, check_frame
from edgevlm.errors import LogError

_NS = 1_000_000_000
_ORDERS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}  # to RGB, and back
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)


class Cdr:
    """Reads the few kinds of fields that camera messages have.

    Source: OMG Common Data Representation: 4 bytes of encapsulation, then values aligned to their size.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
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

    def raw(self) -> bytes:
        """A sequence of bytes with its length before it.

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
        return self.raw().rstrip(b"\0").decode("utf-8", "replace")

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


def read_frame(type_name: str, data: bytes, camera: CameraSpec) -> NDArray[np.uint8]:
    """One camera message as the contract wants it: uint8 `camera.shape` in `camera.encoding`.

    Rows of a raw picture may be padded. Pixels are never scaled.

    Raises:
        LogError: a message that is damaged, or holds depth.
        ShapeError: a picture of another size than the contract's, or in an encoding that is none of 8 bits.
        ContractError: a compressed picture that cannot be decoded.
        DependencyError: OpenCV, for compressed pictures, is not installed.
    """
    cdr = Cdr(data)
    try:
        cdr.stamp_ns()
        cdr.string()  # the frame id
        if type_name == COMPRESSED_IMAGE:
            form, picture = cdr.string(), cdr.raw()
            return check_frame(camera, _decompress(form, picture, camera.encoding))
        height, width, encoding = cdr.uint32(), cdr.uint32(), cdr.string()
        cdr.byte()  # is_bigendian means nothing for 8 bits
        step, pixels = cdr.uint32(), cdr.raw()
    except (struct.error, IndexError, ValueError) as error:
        raise LogError(f"the message is damaged ({error})") from error
    return check_frame(camera, _convert(pixels, (height, width, step), encoding, camera.encoding))


def _decompress(form: str, picture: bytes, encoding: Encoding) -> NDArray[np.uint8]:
    if "compressedDepth" in form or "16UC1" in form or "32FC1" in form:
        raise LogError(f"format {form!r} holds depth, and the contract wants a picture; map the colour topic")
    return images.decode(picture, encoding)


def _convert(pixels: bytes, size: tuple[int, int, int], have: str, want: Encoding) -> NDArray[np.uint8]:
    height, width, step = size
    image = images.view(pixels, height, width, have, step)
    encoding = images.check_encoding(have)
    return image if encoding == want else reorder(image, encoding, want)


def reorder(image: NDArray[np.uint8], have: Encoding, want: Encoding) -> NDArray[np.uint8]:
    """The same picture in another encoding; gray uses the weights of ITU-R BT.601, missing alpha is 255."""
    rgb = np.repeat(image[:, :, None], 3, axis=2) if have == "mono8" else image[:, :, _ORDERS[have]]
    if want == "mono8":
        gray: NDArray[np.float32] = rgb.astype(np.float32) @ _GRAY + np.float32(0.5)
        return gray.astype(np.uint8)
    out = rgb[:, :, _ORDERS[want]]
    if want in ("rgba8", "bgra8"):
        alpha = image[:, :, 3:4] if have in ("rgba8", "bgra8") else np.full((*image.shape[:2], 1), 255, np.uint8)
        out = np.concatenate([out, alpha], axis=2)
    return np.ascontiguousarray(out)
