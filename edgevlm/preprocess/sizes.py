"""Operations whose outcome depends on the picture, as operations with every size in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgevlm.errors import PictureError
from edgevlm.manifest.image_ops import (
    CenterCrop,
    Pad,
    PadToSquare,
    Relative,
    Resize,
    ResizeLongest,
    ResizeShortest,
    ResizeToMultiple,
    Sized,
)

MAX_PIXELS = 100_000_000  # as large as a picture file may be


@dataclass(frozen=True)
class Placed:
    """A picture in the middle of (height, width), the colour `fill` around it."""

    height: int
    width: int
    fill: tuple[int, int, int]
    op: str = "pad_to_square"


Step = Resize | CenterCrop | Pad | Placed
Sides = tuple[int, int]  # height, width


def sized(height: int, width: int, steps: Sequence[Sized | Relative]) -> tuple[Step, ...]:
    """The steps for a picture of (height, width). Raises PictureError: one of them would make it too large."""
    result: list[Step] = []
    for step in steps:
        known = _known(height, width, step)
        if isinstance(known, Placed) and height == width:
            continue
        result.append(known)
        height, width = known.height, known.width
    return tuple(result)


def _known(height: int, width: int, step: Sized | Relative) -> Step:
    if isinstance(step, PadToSquare):
        side = max(height, width)
        return Placed(side, side, step.fill)
    if isinstance(step, ResizeShortest):
        sides = _shortest(height, width, step)
    elif isinstance(step, ResizeLongest):
        sides = _longest(height, width, step)
    elif isinstance(step, ResizeToMultiple):
        sides = _to_multiple(height, width, step.size)
    else:
        return step
    if sides[0] * sides[1] > MAX_PIXELS:
        raise PictureError(
            f"picture of {width}x{height}: expected at most {MAX_PIXELS} pixels after {step.op}, it would have "
            f"{sides[1]}x{sides[0]}; crop it first"
        )
    # A long and thin picture may have sides that no manifest names.
    return Resize.model_construct(height=sides[0], width=sides[1], filter=step.filter)


def _shortest(height: int, width: int, step: ResizeShortest) -> Sides:
    short, long = sorted((height, width))
    longer = int(step.size * long / short)
    return (step.size, longer) if height <= width else (longer, step.size)


# The next two keep the order of the divisions: another one would round differently for some sizes.


def _longest(height: int, width: int, step: ResizeLongest) -> Sides:
    ratio = width / height
    if width >= height:
        width = step.size
        height = int(width / ratio)
        height += height % 2
    else:
        height = step.size
        width = int(height * ratio)
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    ratio = width / height
    if width >= height and width > step.limit:
        width = step.limit
        height = int(width / ratio)
    elif height > width and height > step.limit:
        height = step.limit
        width = int(height * ratio)
    return max(height, 1), max(width, 1)


def _to_multiple(height: int, width: int, size: int) -> Sides:
    ratio = width / height
    if width >= height:
        width = _up(width, size)
        height = _up(int(width / ratio), size)
    else:
        height = _up(height, size)
        width = _up(int(height * ratio), size)
    return max(height, size), max(width, size)


def _up(side: int, size: int) -> int:
    return math.ceil(side / size) * size
