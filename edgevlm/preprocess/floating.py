"""Operations in float32, each prepared for pictures of one size. They have no native form."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.image_ops import Floating, Normalize, ResizeWithPad, SmoothToSquare
from edgevlm.preprocess.smoothed import Smoothed

UNIT = (np.arange(256, dtype=np.float32) / np.float32(255)).astype(np.float32)  # a byte as a number from 0 to 1


class FloatChange(Protocol):
    """One operation for pictures of one size. Threads may share one."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of what it makes."""
        ...

    def __call__(self, image_hwc_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 RGB (H, W, 3) of its size -> float32 (height, width, 3) in 0..1."""
        ...


def float_change(size: tuple[int, int], step: Floating) -> FloatChange:
    """`step` for pictures of `size` (height, width).

    Raises:
        ValueError: it cannot be done to pictures of this size; says why, and begins in the middle of a sentence.
    """
    return Smoothed(size, step) if isinstance(step, SmoothToSquare) else _PaddedResize(size, step)


def normalize_float(image_hwc: NDArray[np.float32], operation: Normalize, out_chw: NDArray[np.float32]) -> None:
    """Fill float32 (3, H, W) from float32 (H, W, 3): `(x - mean) / std`, each rounded to float32."""
    for channel in range(3):
        np.subtract(image_hwc[:, :, channel], np.float32(operation.mean[channel]), out=out_chw[channel])
        out_chw[channel] /= np.float32(operation.std[channel])


class _Line(NamedTuple):
    """What each output pixel along one axis is made of: two pixels, `share` of the second one."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    share: NDArray[np.float32]


class _PaddedResize:
    """`ResizeWithPad` for one size.

    Source: bilinear `interpolate` of PyTorch 2.13 with align_corners false (aten/src/ATen/native/UpSample.h).
    """

    def __init__(self, size: tuple[int, int], step: ResizeWithPad) -> None:
        height, width = size
        ratio = max(width / step.width, height / step.height)
        inner = int(height / ratio), int(width / ratio)
        if not all(inner):
            raise ValueError(f"nothing is left of a picture of {width}x{height} in {step.width}x{step.height}")
        self.shape = (step.height, step.width)
        self._corner = step.height - inner[0], step.width - inner[1]
        self._lines = None if inner == size else (_line(height, inner[0]), _line(width, inner[1]))

    def __call__(self, image_hwc_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The picture at the right and at the bottom, black elsewhere."""
        made = UNIT[image_hwc_u8] if self._lines is None else _resized(image_hwc_u8, *self._lines)
        top, left = self._corner
        if not top and not left:
            return made
        out = np.zeros((*self.shape, 3), np.float32)
        out[top:, left:] = made
        return out


def _line(size_in: int, size_out: int) -> _Line:
    """As torch does it: the scale is a float32, and each place is rounded to one once, at its end.

    With another rounding the shares of a wide picture would differ in the fifth digit.
    """
    scale = np.float64(np.float32(size_in) / np.float32(size_out))
    place = np.maximum(scale * (np.arange(size_out) + 0.5) - 0.5, 0.0).astype(np.float32)
    first = np.minimum(place.astype(np.intp), size_in - 1)
    share = np.clip(place - first.astype(np.float32), 0, 1).astype(np.float32)
    return _Line(first, np.minimum(first + 1, size_in - 1), share)


def _resized(image_hwc_u8: NDArray[np.uint8], rows: _Line, columns: _Line) -> NDArray[np.float32]:
    wide = _mixed(UNIT[image_hwc_u8[:, columns.first]], UNIT[image_hwc_u8[:, columns.second]], columns.share[:, None])
    return _mixed(wide[rows.first], wide[rows.second], rows.share[:, None, None])


def _mixed(first: NDArray[np.float32], second: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    first *= np.float32(1) - share
    second *= share
    first += second
    return first
