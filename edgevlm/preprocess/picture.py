"""Pictures of any size, cut into tiles where the model wants it: operations prepared for each size met lately."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import BundleError, DependencyError, PictureError, ShapeError
from edgevlm.manifest.contract import CameraSpec, CheckedFrame
from edgevlm.manifest.image_ops import (
    CenterCrop,
    Floating,
    ImageOp,
    Normalize,
    Pad,
    PadToSquare,
    Relative,
    Resize,
    ResizeShortest,
    SmoothToSquare,
    Tiles,
)
from edgevlm.preprocess import numpy_reference as reference
from edgevlm.preprocess.native import ImageStep, image_step, native_available, native_plan
from edgevlm.preprocess.pipeline import Preprocessor
from edgevlm.preprocess.sizes import sized

MAX_SIZES, MAX_TILED_SIZES = 8, 2  # plans for tiles hold much scratch memory
SQUARE_SIDE = 1 << 14  # of a picture that is padded to a square: 800 MB; or smoothed as a part of one
LONGEST_SIDE = 1 << 20  # of a picture after its resize: beyond it is a line, and its filters alone fill the memory


class PicturePreprocessor:
    """uint8 RGB (H, W, 3) of any size -> float32 (N, 3, h, w). Threads may share one.

    N is 1, or rows * columns + 1 where the picture is cut into tiles: these row by row, then the whole picture.
    """

    def __init__(self, ops: Sequence[ImageOp], native: bool | None = None) -> None:
        """`native` None takes the native module where there is one.

        Raises:
            BundleError: `tiles` stands where it cannot.
        """
        self._ops, self._native, self._tiled = tuple(ops), native, _parts(ops)
        self._limit = MAX_SIZES if self._tiled is None else MAX_TILED_SIZES
        self._known: OrderedDict[tuple[int, int], Preprocessor | _Tiled] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, image_hwc_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The picture as the model wants it.

        Raises:
            ShapeError: not uint8 (H, W, 3), or no pixels.
            PictureError: a line, so long beside its width that resizing it would fill the memory.
            BundleError: the operations do not fit pictures of this size.
        """
        image = check_picture(image_hwc_u8)
        return self._prepared(*image.shape[:2]).prepare(CheckedFrame(image))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the tiles of a picture of this size, without preparing it; (0, 0): it is not cut.

        Raises:
            PictureError, BundleError: as for the picture itself.
        """
        self._check_ratio(height, width)
        return (0, 0) if self._tiled is None else _grid(self._tiled, height, width)

    def _prepared(self, height: int, width: int) -> Preprocessor | _Tiled:
        with self._lock:
            known = self._known.pop((height, width), None)
            if known is None:
                self._check_ratio(height, width)
                known = self._for_size(height, width)
            self._known[height, width] = known
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
            return known

    def _for_size(self, height: int, width: int) -> Preprocessor | _Tiled:
        if self._tiled is not None:
            if self._native and not native_available():
                raise DependencyError("native preprocessing: expected edgevlm._native, it was not built; reinstall it")
            return _Tiled((height, width), self._tiled, self._native is not False and native_available())
        camera = CameraSpec(name="image", width=width, height=height, rate_hz=(1.0, 1.0))
        return Preprocessor(camera, self._ops, self._native)

    def _check_ratio(self, height: int, width: int) -> None:
        for op in self._ops:
            if isinstance(op, (PadToSquare, SmoothToSquare)) and max(height, width) > SQUARE_SIDE:
                how = "padded to a square" if isinstance(op, PadToSquare) else "smoothed as a part of a square"
                raise PictureError(
                    f"picture of {width}x{height}: expected sides of at most {SQUARE_SIDE}, because it is {how}; "
                    "make it smaller"
                )
            if isinstance(op, ResizeShortest) and op.size * max(height, width) > LONGEST_SIDE * min(height, width):
                raise PictureError(
                    f"picture of {width}x{height}: expected sides no further apart than 1 to "
                    f"{LONGEST_SIDE // op.size}, got a line; cut the part that matters out of it"
                )


def check_picture(image: object) -> NDArray[np.uint8]:
    """`image` as uint8 (H, W, 3) in one piece. Raises ShapeError."""
    fits = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if not isinstance(image, np.ndarray) or not fits or image.size == 0:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ShapeError(
            f"picture: expected uint8 (H, W, 3) in RGB with at least one pixel, or a path, got {got}; convert it first"
        )
    return np.ascontiguousarray(image)


class _Parts(NamedTuple):
    """The operations of pictures that are cut into tiles."""

    steps: tuple[Resize | Relative, ...]
    tiles: Tiles
    normalize: Normalize


def _parts(ops: Sequence[ImageOp]) -> _Parts | None:
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
    return _Parts(steps, ops[-2], ops[-1])


def _grid(parts: _Parts, height: int, width: int) -> tuple[int, int]:
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


class _Tiled:
    """uint8 RGB (H, W, 3) of one size -> float32 (rows * columns + 1, 3, S, S). Threads may share one."""

    def __init__(self, size: tuple[int, int], parts: _Parts, native: bool) -> None:
        """Prepare filters for pictures of `size` (height, width). Raises BundleError: the operations do not fit."""
        self._grid = _grid(parts, *size)
        self._table = reference.normalize_table(parts.normalize)
        self._steps: list[ImageStep] = []
        for step in sized(*size, parts.steps):
            self._steps.append(image_step(size, step, native))
            size = (step.height, step.width)
        side = parts.tiles.size
        self._side = side
        self._overview = image_step(size, Resize(height=side, width=side, filter=parts.tiles.filter), native)
        self._native = native_plan((side, side), "rgb8", (None, None, None), self._table) if native else None

    def prepare(self, image_hwc_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The tiles row by row, then the whole picture."""
        picture = image_hwc_u8
        for step in self._steps:
            picture = step(picture)
        rows, columns = self._grid
        out = np.empty((rows * columns + 1, 3, self._side, self._side), np.float32)
        for place in range(rows * columns):
            top, left = (place // columns) * self._side, (place % columns) * self._side
            self._fill(picture[top : top + self._side, left : left + self._side], out[place])
        self._fill(self._overview(picture), out[-1])
        return out

    def _fill(self, tile: NDArray[np.uint8], out_chw: NDArray[np.float32]) -> None:
        if self._native is not None:
            self._native.run(tile, out_chw[None])
        else:
            reference.normalize(tile, self._table, out_chw)
