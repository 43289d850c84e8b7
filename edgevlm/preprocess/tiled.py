"""Pictures that are cut into tiles: prepared once for one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import BundleError
from edgevlm.manifest.image_ops import CenterCrop, Floating, ImageOp, Normalize, Pad, Relative, Resize, Tiles
from edgevlm.preprocess import numpy_reference as reference
from edgevlm.preprocess.native import ImageStep, image_step, native_plan
from edgevlm.preprocess.sizes import sized


class Parts(NamedTuple):
    """The operations of pictures that are cut into tiles."""

    steps: tuple[Resize | Relative, ...]
    tiles: Tiles
    normalize: Normalize


def parts(ops: Sequence[ImageOp]) -> Parts | None:
    """The operations by what they do; None where no picture is cut.

    Raises:
        BundleError: `tiles` is not the last operation before `normalize`, or a crop or a pad comes before it.
    """
    if not any(isinstance(op, Tiles) for op in ops):
        return None
    steps = tuple(op for op in ops if not isinstance(op, (CenterCrop, Pad, Tiles, Floating, Normalize)))
    if len(steps) != len(ops) - 2 or not isinstance(ops[-2], Tiles) or not isinstance(ops[-1], Normalize):
        raise BundleError(
            f"preprocess of pictures: expected resizes, then `tiles`, then `normalize`, got {[op.op for op in ops]}; "
            "export the bundle again"
        )
    return Parts(steps, ops[-2], ops[-1])


def grid(parts: Parts, height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of a picture's tiles; (0, 0) for one that is not cut.

    Raises:
        BundleError: the sides are no multiples of the tile's.
    """
    for step in sized(height, width, parts.steps):
        height, width = step.height, step.width
    side = parts.tiles.size
    if height % side or width % side:
        raise BundleError(
            f"preprocess of pictures: expected sides that are multiples of the tile's {side} before `tiles`, got "
            f"{width}x{height}; export the bundle again"
        )
    return (0, 0) if (height, width) == (side, side) else (height // side, width // side)


class Tiled:
    """uint8 RGB (H, W, 3) of one size -> float32 (rows * columns + 1, 3, S, S). Threads may share one."""

    def __init__(self, size: tuple[int, int], parts: Parts, native: bool) -> None:
        """Prepare filters for pictures of `size` (height, width). Raises BundleError: the operations do not fit."""
        self.grid = grid(parts, *size)
        self._table = reference.normalize_table(parts.normalize)
        self._steps: list[ImageStep] = []
        for step in sized(*size, parts.steps):
            self._steps.append(image_step(size, step, native))
            size = (step.height, step.width)
        side = parts.tiles.size
        self._side = side
        self._whole = image_step(size, Resize(height=side, width=side, filter=parts.tiles.filter), native)
        self._native = native_plan((side, side), "rgb8", (None, None, None), self._table) if native else None

    def prepare(self, image_hwc_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The tiles row by row, then the whole picture."""
        picture = image_hwc_u8
        for step in self._steps:
            picture = step(picture)
        rows, columns = self.grid
        out = np.empty((rows * columns + 1, 3, self._side, self._side), np.float32)
        for place in range(rows * columns):
            top, left = (place // columns) * self._side, (place % columns) * self._side
            self._fill(picture[top : top + self._side, left : left + self._side], out[place])
        self._fill(self._whole(picture), out[-1])
        return out

    def _fill(self, tile: NDArray[np.uint8], out_chw: NDArray[np.float32]) -> None:
        if self._native is not None:
            self._native.run(tile, out_chw[None])
        else:
            reference.normalize(tile, self._table, out_chw)
