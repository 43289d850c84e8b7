"""What is done to a picture on its way into a model: primitive operations, listed in a manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgevlm.contract import Spec


class Resize(Spec):
    """Antialiased resize to (height, width), exact to Pillow's filter of the same name."""

    op: Literal["resize"] = "resize"
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    filter: Literal["bilinear", "bicubic"] = "bilinear"


class ResizeShortest(Spec):
    """Resize as `Resize` does, the shorter side to `size`, the longer to `int(size * longer / shorter)`. Since 1.1."""

    op: Literal["resize_shortest"] = "resize_shortest"
    size: int = Field(gt=0)
    filter: Literal["bilinear", "bicubic"] = "bilinear"


class CenterCrop(Spec):
    """Cut (height, width) out of the middle."""

    op: Literal["center_crop"] = "center_crop"
    width: int = Field(gt=0)
    height: int = Field(gt=0)


class Pad(Spec):
    """Grow to (height, width) with `fill`, the picture in the top left corner."""

    op: Literal["pad"] = "pad"
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    fill: int = Field(default=0, ge=0, le=255)


class Normalize(Spec):
    """uint8 RGB -> float32 `(x * scale - mean) / std`, per channel. Always the last operation.

    Attributes:
        rounding: `once` computes in float64 and rounds at the end; `each` rounds to float32 after every operation, as
            some training pipelines do. Since 1.1.
    """

    op: Literal["normalize"] = "normalize"
    scale: float = 1.0 / 255.0
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rounding: Literal["once", "each"] = "once"


ImageOp = Annotated[Resize | ResizeShortest | CenterCrop | Pad | Normalize, Field(discriminator="op")]
