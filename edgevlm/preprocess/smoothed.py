"""`SmoothToSquare` for one size: padded to a square, smoothed and resized, without the square ever being made."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.image_ops import SmoothToSquare

REACH = 4.0  # of the Gaussian, in sigmas


class _Line(NamedTuple):
    """What each output pixel along one axis is made of.

    `places` and `weight` are (n, K): n is smaller than the size asked for where the last pixels see padding alone.
    """

    places: NDArray[np.intp]
    weight: NDArray[np.float32]


class Smoothed:
    """uint8 RGB of one size -> float32 (size, size, 3) in 0..1. Threads may share one.

    Source: what transformers' Pillow-backed image processor of padded detectors does: scipy's gaussian_filter, then
    zoom of order 1 in grid mode, both with the edges mirrored. Here both are one weighted sum along each axis. Its last
    step, cutting off what is beyond the picture's range, has nothing to cut: all weights are positive, their sum is 1.
    """

    def __init__(self, size: tuple[int, int], step: SmoothToSquare) -> None:
        self.shape = (step.size, step.size)
        square = max(size)
        self._rows, self._columns = (_line(inside, square, step.size) for inside in size)

    def __call__(self, image_hwc_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The picture in the top left corner, black elsewhere."""
        rows = _Line(self._rows.places, self._rows.weight / np.float32(255))
        low = _summed(image_hwc_u8, rows)  # (n, W, 3)
        small = _summed(np.ascontiguousarray(low.swapaxes(0, 1)), self._columns)  # (m, n, 3)
        out = np.zeros((*self.shape, 3), np.float32)
        out[: small.shape[1], : small.shape[0]] = small.swapaxes(0, 1)
        return out


def _line(inside: int, square: int, size_out: int) -> _Line:
    """The weights along an axis of `square` pixels, of which the first `inside` are the picture's."""
    factor = square / size_out
    bell = _bell(max(0.0, (factor - 1) / 2))
    place = factor * (np.arange(size_out) + 0.5) - 0.5
    first = np.floor(place).astype(np.intp)
    share = (place - first)[:, None]
    # Two neighbours, each of them smoothed: a bell, and the same one pixel further on.
    weight = (1 - share) * np.append(bell, 0.0) + share * np.insert(bell, 0, 0.0)
    index = _mirrored(first[:, None] + np.arange(len(bell) + 1) - len(bell) // 2, square)
    weight = np.where(index < inside, weight, 0.0).astype(np.float32)
    seen = int(np.flatnonzero(weight.any(axis=1))[-1]) + 1
    return _Line(np.minimum(index, inside - 1)[:seen], weight[:seen])


def _bell(sigma: float) -> NDArray[np.float64]:
    """The Gaussian's weights, an odd number of them."""
    reach = int(REACH * sigma + 0.5)
    if reach == 0:
        return np.ones(1)
    places = np.arange(-reach, reach + 1)
    powers = np.exp(-0.5 / (sigma * sigma) * places**2)
    result: NDArray[np.float64] = powers / powers.sum()
    return result


def _mirrored(index: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Places beyond an edge as those before it; the edge itself comes once."""
    period = max(2 * size - 2, 1)
    index = index % period
    result: NDArray[np.intp] = np.where(index < size, index, period - index)
    return result


def _summed(image: NDArray[Any], line: _Line) -> NDArray[np.float32]:
    """The weighted sums along the first axis."""
    total = np.zeros((len(line.places), *image.shape[1:]), np.float32)
    for tap in range(line.places.shape[1]):
        total += image[line.places[:, tap]] * line.weight[:, tap, None, None]
    return total
