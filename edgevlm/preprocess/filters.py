"""Resampling coefficients in fixed point, the same integers as Pillow's (src/libImaging/Resample.c)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.image_ops import Filter

SUPPORT: dict[Filter, float] = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}
PRECISION_BITS = 22  # 32 bits, less 8 of the pixel, less 2 for overshoot
_A = -0.5  # Pillow's bicubic; OpenCV and torch use -0.75


@dataclass(frozen=True)
class Taps:
    """What each output pixel along one axis is made of.

    `index` (size_out, K) are input positions, `weight` (size_out, K) int32 in units of 2**-PRECISION_BITS. Rows
    with fewer than K taps repeat a valid index with weight 0.
    """

    index: NDArray[np.intp]
    weight: NDArray[np.int32]


def taps(size_in: int, size_out: int, name: Filter, positions: range | None = None) -> Taps:
    """The antialiased filter from `size_in` to `size_out` pixels, or of those at `positions` alone.

    Source: Pillow's precompute_coeffs and normalize_coeffs_8bpc.
    """
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    support = SUPPORT[name] * stretch
    width = math.ceil(support) * 2 + 1
    positions = range(size_out) if positions is None else positions
    index = np.zeros((len(positions), width), np.intp)
    weight = np.zeros((len(positions), width), np.float64)
    for place, position in enumerate(positions):
        center = (position + 0.5) * scale
        first = max(int(center - support + 0.5), 0)
        last = min(int(center + support + 0.5), size_in)
        places = np.arange(first, last, dtype=np.float64)
        row = _kernel((places - center + 0.5) * (1.0 / stretch), name)
        index[place] = np.minimum(first + np.arange(width), size_in - 1)
        weight[place, : last - first] = row / _sum_in_order(row)
    fixed = weight * (1 << PRECISION_BITS)
    return Taps(index, np.trunc(fixed + np.where(fixed < 0, -0.5, 0.5)).astype(np.int32))


def whole(first: int, count: int) -> Taps:
    """Pixels `first` to `first + count` as they are: a crop."""
    index = np.arange(first, first + count, dtype=np.intp)[:, None]
    return Taps(index, np.full(index.shape, 1 << PRECISION_BITS, np.int32))


def _kernel(x: NDArray[np.float64], name: Filter) -> NDArray[np.float64]:
    if name == "lanczos":
        return np.array([_lanczos(float(place)) for place in x])
    x = np.abs(x).astype(np.float64, copy=False)
    if name == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    near = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: float) -> float:
    """By `math.sin`, which is C's as in Pillow: NumPy's own may differ in the last bit."""
    return _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0


def _sinc(x: float) -> float:
    if x == 0.0:
        return 1.0
    x *= math.pi
    return math.sin(x) / x


def _sum_in_order(row: NDArray[np.float64]) -> float:
    """Left to right, as C adds: NumPy's pairwise sum may differ in the last bit."""
    total = 0.0
    for value in row.tolist():
        total += value
    return total
