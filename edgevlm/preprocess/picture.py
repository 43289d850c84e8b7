"""Pictures of any size: one prepared `Preprocessor` for each size met lately."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import DependencyError, PictureError, ShapeError
from edgevlm.manifest.contract import CameraSpec, CheckedFrame
from edgevlm.manifest.image_ops import ImageOp, PadToSquare, ResizeShortest, SmoothToSquare
from edgevlm.preprocess.native import native_available
from edgevlm.preprocess.pipeline import Preprocessor
from edgevlm.preprocess.tiled import Tiled, grid, parts

SIZES_KEPT, TILED_KEPT = 8, 2  # plans for tiles hold much scratch memory
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
        self._ops, self._native, self._tiled = tuple(ops), native, parts(ops)
        self._kept = SIZES_KEPT if self._tiled is None else TILED_KEPT
        self._known: OrderedDict[tuple[int, int], Preprocessor | Tiled] = OrderedDict()
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
        return (0, 0) if self._tiled is None else grid(self._tiled, height, width)

    def _prepared(self, height: int, width: int) -> Preprocessor | Tiled:
        with self._lock:
            known = self._known.pop((height, width), None)
            if known is None:
                self._check_ratio(height, width)
                known = self._for_size(height, width)
            self._known[height, width] = known
            if len(self._known) > self._kept:
                self._known.popitem(last=False)
            return known

    def _for_size(self, height: int, width: int) -> Preprocessor | Tiled:
        if self._tiled is not None:
            if self._native and not native_available():
                raise DependencyError("native preprocessing: expected edgevlm._native, it was not built; reinstall it")
            return Tiled((height, width), self._tiled, self._native is not False and native_available())
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
