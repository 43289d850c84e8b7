"""What a JPEG or PNG file announces, read before anything is decoded: a few bytes can announce gigabytes.

Source: ITU-T T.81 (JPEG) and the PNG specification, third edition.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

from edgevlm.errors import PictureError

MAX_PIXELS = 100_000_000  # 300 MB as RGB: more than any camera takes, less than a bomb
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_TAIL_BYTES = 64  # drivers pad compressed frames; zeros may be any number
_FRAMES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}
_OTHER_FRAMES = {*range(0xC3, 0xD0)} - {0xC4, 0xC8, 0xCC}  # lossless, hierarchical, arithmetic
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_SCAN = 0xDA
_MOST_SCANS = 32  # of a progressive picture; encoders write about 10, and each costs a pass over all pixels
_MOST_ANCILLARY = 64
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # PNG's colour types
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


@dataclass(frozen=True)
class ImageHeader:
    """A JPEG or PNG file before it is decoded.

    Attributes:
        channels: as they lie in the file; a palette's are 3.
        bits: of one channel.
        data: the file without what its pixels do not need, such as texts, which decompress to megabytes.
    """

    kind: Literal["jpeg", "png"]
    width: int
    height: int
    channels: int
    bits: int
    data: bytes
    pixels_at: int = 0  # in a JPEG: where its first scan begins

    @property
    def grey(self) -> bool:
        """Whether the file holds no colour."""
        return self.channels < 3


def read_header(data: bytes, what: str, hint: str) -> ImageHeader:
    """The header of a file that is complete as far as that can be told without decoding it.

    Args:
        what: begins every message.
        hint: what to do about a file of another kind.

    Raises:
        PictureError: no JPEG or PNG, one whose end is missing, a damaged chunk, no 8 or 16 bits, CMYK, animated,
            a kind of JPEG that cameras do not write, or more than MAX_PIXELS.
    """
    check_whole(data, what, hint)
    try:
        header = _png(data) if data.startswith(PNG_START) else _jpeg(data)
    except ValueError as error:
        raise PictureError(f"{what}: cannot be decoded: {error}; drop it, or save it again") from error
    except (struct.error, IndexError, KeyError) as error:
        raise PictureError(
            f"{what}: cannot be decoded: expected JPEG or PNG with a header that tells the size, got none; "
            "drop it, or save it again"
        ) from error
    if not 0 < header.width * header.height <= MAX_PIXELS:
        raise PictureError(
            f"{what}: cannot be decoded: expected at most {MAX_PIXELS} pixels, its header says "
            f"{header.width}x{header.height}: a decompression bomb, or a scan to be made smaller first"
        )
    return header


def check_whole(data: bytes, what: str, hint: str) -> None:
    """Refuse what OpenCV would decode to a picture with a grey lower half; `what` and `hint` go into the message.

    Zeros after the end do no harm: drivers pad frames with them.

    Raises:
        PictureError: no JPEG or PNG, or one whose end is missing.
    """
    ends = {JPEG_START: JPEG_END, PNG_START: PNG_END}
    end = next((end for start, end in ends.items() if data.startswith(start)), None)
    if end is None:
        raise PictureError(f"{what}: expected JPEG or PNG, got bytes that start with {data[:8].hex(' ')!r}; {hint}")
    if end not in data[-_TAIL_BYTES:] and end not in data.rstrip(b"\0")[-_TAIL_BYTES:]:
        raise PictureError(f"{what}: its end is missing, it was cut; drop it, or copy it again")


def _png(data: bytes) -> ImageHeader:
    view, at, ancillary, chunks = memoryview(data), len(PNG_START), 0, 0
    parts: list[memoryview] = [view[:at]]
    header: tuple[int, int, int, int] | None = None
    while True:
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise ValueError(f"chunk {name!r} of its header or its pixels runs over the end")
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError(f"the checksum of chunk {name!r} does not fit: bytes were lost or changed")
        chunks += 1
        ancillary += name not in _PIXEL_CHUNKS
        if name == b"acTL":
            raise ValueError("expected one picture, got an animation")
        if ancillary > _MOST_ANCILLARY or chunks > 2 * _MOST_ANCILLARY + len(data) // 512:
            raise ValueError(f"{len(data)} bytes in over {chunks - 1} chunks: no camera writes such a file")
        if header is None:
            if name != b"IHDR":
                raise KeyError(name)
            header = struct.unpack(">IIBB", data[at + 8 : at + 18])
        if name in _PIXEL_CHUNKS:
            parts.append(view[at:end])
        at = end
        if name == b"IEND":
            break
    width, height, bits, colour = header
    return ImageHeader("png", width, height, _CHANNELS[colour], bits, b"".join(parts) if ancillary else data)


def _jpeg(data: bytes) -> ImageHeader:
    at, frame = 2, None
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        if marker == _SCAN:
            break
        if marker in _OTHER_FRAMES:
            raise ValueError(f"expected a baseline or progressive JPEG, got one of kind SOF{marker - 0xC0}")
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _FRAMES:
            if frame is not None:
                raise ValueError("its header tells two sizes")
            frame = struct.unpack_from(">BHHB", data, at + 4)
        at += 2 + length
    if frame is None or data[at] != 0xFF:
        raise KeyError("no frame")
    bits, height, width, channels = frame
    if bits != 8 or channels not in (1, 3):
        name = {4: "CMYK"}.get(channels, f"{channels} channel(s)")
        raise ValueError(f"expected grey or RGB of 8 bits, got a JPEG in {name} of {bits} bits")
    if data.find(JPEG_END, at) < 0:
        raise ValueError("its end is missing")
    if data.count(b"\xff\xda", at) > _MOST_SCANS:
        raise ValueError(f"expected at most {_MOST_SCANS} scans, got {data.count(bytes((0xFF, _SCAN)), at)}")
    return ImageHeader("jpeg", width, height, channels, bits, data, at)
