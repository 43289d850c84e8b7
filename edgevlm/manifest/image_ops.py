"""What is done to a picture on its way into a model: primitive operations, listed in a manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgevlm.manifest.contract import Side, Spec

Byte = Annotated[int, Field(ge=0, le=255)]
Filter = Literal["bilinear", "bicubic", "lanczos"]  # lanczos since 1.2


class Resize(Spec):
    """Antialiased resize to (height, width), exact to Pillow's filter of the same name."""

    op: Literal["resize"] = "resize"
    width: Side
    height: Side
    filter: Filter = "bilinear"


class ResizeShortest(Spec):
    """Resize as `Resize` does, the shorter side to `size`, the longer to `int(size * longer / shorter)`. Since 1.1."""

    op: Literal["resize_shortest"] = "resize_shortest"
    size: Side
    filter: Filter = "bilinear"


class ResizeLongest(Spec):
    """Resize as `Resize` does: the longer side to `size`, the shorter in proportion and even, no side above `limit`.

    Since 1.2. The shorter side is `int(size / (longer / shorter))`, one more where that is odd; at least 1.
    """

    op: Literal["resize_longest"] = "resize_longest"
    size: Side
    limit: Side
    filter: Filter = "bilinear"


class ResizeToMultiple(Spec):
    """Resize as `Resize` does: the longer side up to a whole multiple of `size`, then the shorter one in proportion,
    up to a whole multiple too. Since 1.2."""

    op: Literal["resize_to_multiple"] = "resize_to_multiple"
    size: Side
    filter: Filter = "bilinear"


class CenterCrop(Spec):
    """Cut (height, width) out of the middle."""

    op: Literal["center_crop"] = "center_crop"
    width: Side
    height: Side


class Pad(Spec):
    """Grow to (height, width) with `fill`, the picture in the top left corner."""

    op: Literal["pad"] = "pad"
    width: Side
    height: Side
    fill: int = Field(default=0, ge=0, le=255)


class PadToSquare(Spec):
    """Grow the shorter side to the longer with the colour `fill` (RGB), the picture in the middle. Since 1.2."""

    op: Literal["pad_to_square"] = "pad_to_square"
    fill: tuple[Byte, Byte, Byte]


class Tiles(Spec):
    """Cut into tiles of `size` squared, row by row, then the whole picture resized to one more. Since 1.2.

    Sides must be multiples of `size`; a picture of one tile is that tile alone. The last operation before `normalize`.
    """

    op: Literal["tiles"] = "tiles"
    size: Side
    filter: Filter = "bilinear"


class ResizeWithPad(Spec):
    """Shrink or grow to fit into (height, width), black at the left and at the top. Since 1.3.

    One of the operations in float32: bytes become `x / 255`, then bilinear without antialiasing, two pixels for each
    axis, exact to torch's `interpolate`. Nothing is resized where the picture has the size already.
    """

    op: Literal["resize_with_pad"] = "resize_with_pad"
    width: Side
    height: Side


class SmoothToSquare(Spec):
    """Grow to a square, black at the right and at the bottom, then resize it to (size, size). Since 1.3.

    One of the operations in float32: bytes become `x / 255`; a square larger than `size` by a factor f is smoothed by a
    Gaussian of sigma (f - 1) / 2 before two pixels of each axis are mixed. Edges are mirrored.
    """

    op: Literal["smooth_to_square"] = "smooth_to_square"
    size: Side


class Normalize(Spec):
    """RGB -> float32 `(x * scale - mean) / std`, per channel. Always the last operation.

    It takes bytes; after an operation in float32 it takes that one's numbers, 0 to 1, and `scale` is 1.

    Attributes:
        rounding: `once` computes in float64 and rounds at the end; `each` rounds to float32 after every operation, as
            some training pipelines do. Since 1.1.
    """

    op: Literal["normalize"] = "normalize"
    scale: float = 1.0 / 255.0
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rounding: Literal["once", "each"] = "once"


Sized = Resize | CenterCrop | Pad  # what it makes of a picture is told in numbers
Relative = ResizeShortest | ResizeLongest | ResizeToMultiple | PadToSquare  # the size it makes depends on the picture
# Bytes -> float32 in 0..1: stands directly before `normalize`, and only there. Since 1.3.
Floating = ResizeWithPad | SmoothToSquare
ImageOp = Annotated[Sized | Relative | Tiles | Floating | Normalize, Field(discriminator="op")]
