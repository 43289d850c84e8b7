"""Pictures of any size: one prepared `Preprocessor` for each size met lately."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgevlm.contract import CameraSpec
from edgevlm.errors import PictureError, ShapeError
from edgevlm.operations import ImageOp, ResizeShortest
from edgevlm.preprocess.pipeline import Preprocessor

SIZES_KEPT = 8
LONGEST_SIDE = 1 << 20  # of a picture after its resize: beyond it is a line, and its filters alone fill the memory


class PicturePreprocessor:
    """uint8 RGB (H, W, 3) of any size -> float32 (1, 3, h, w). Threads may share one."""

    def __init__(self, ops: Sequence[ImageOp], native: bool | None = None) -> None:
        self._ops, self._native = tuple(ops), native
        self._known: OrderedDict[tuple[int, int], Preprocessor] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, image_hwc_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The picture as the model wants it.

        Raises:
            ShapeError: not uint8 (H, W, 3), or no pixels.
            PictureError: a line, so long beside its width that resizing it would fill the memory.
            BundleError: the operations do not fit pictures of this size.
        """
        image = _checked(image_hwc_u8)
        return self._prepared(*image.shape[:2])(image)

    def _prepared(self, height: int, width: int) -> Preprocessor:
        with self._lock:
            known = self._known.pop((height, width), None)
            if known is None:
                self._check_ratio(height, width)
                camera = CameraSpec(name="image", width=width, height=height, rate_hz=(1.0, 1.0))
                known = Preprocessor(camera, self._ops, self._native)
            self._known[height, width] = known
            if len(self._known) > SIZES_KEPT:
                self._known.popitem(last=False)
            return known

    def _check_ratio(self, height: int, width: int) -> None:
        for op in self._ops:
            if isinstance(op, ResizeShortest) and op.size * max(height, width) > LONGEST_SIDE * min(height, width):
                raise PictureError(
                    f"picture of {width}x{height}: expected sides no further apart than 1 to "
                    f"{LONGEST_SIDE // op.size}, got a line; cut the part that matters out of it"
                )


def _checked(image: object) -> NDArray[np.uint8]:
    fits = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if not isinstance(image, np.ndarray) or not fits or image.size == 0:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ShapeError(
            f"picture: expected uint8 (H, W, 3) in RGB with at least one pixel, or a path, got {got}; convert it first"
        )
    return np.ascontiguousarray(image)
