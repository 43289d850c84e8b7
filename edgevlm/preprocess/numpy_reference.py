"""The operations in NumPy: the fallback where the native module is missing, and its oracle everywhere.

Those in float32 have no native form; each is prepared for pictures of one size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import ShapeError
from edgevlm.manifest.contract import Encoding
from edgevlm.manifest.image_ops import Filter, Floating, Normalize, ResizeWithPad, SmoothToSquare
from edgevlm.preprocess.filters import PRECISION_BITS, Taps, taps, whole
from edgevlm.preprocess.sizes import Placed

CHANNEL_ORDER: Mapping[Encoding, tuple[int, int, int]] = {  # where red, green and blue lie in a pixel
    "rgb8": (0, 1, 2),
    "bgr8": (2, 1, 0),
    "rgba8": (0, 1, 2),
    "bgra8": (2, 1, 0),
    "mono8": (0, 0, 0),
}
UNIT = (np.arange(256, dtype=np.float32) / np.float32(255)).astype(np.float32)  # a byte as a number from 0 to 1
REACH = 4.0  # of the smoothing Gaussian, in sigmas


def resize_u8(image_hwc_u8: NDArray[np.uint8], width: int, height: int, filter: Filter) -> NDArray[np.uint8]:
    """Antialiased resize of uint8 (H, W, C) to (height, width, C), every byte equal to Pillow's `Image.resize`.

    Raises:
        ShapeError: not uint8 (H, W, C), or an empty image.

    Source: Pillow's ImagingResample: horizontal pass, rounding to uint8, vertical pass.
    """
    if image_hwc_u8.dtype != np.uint8 or image_hwc_u8.ndim != 3 or image_hwc_u8.size == 0 or min(width, height) < 1:
        raise ShapeError(
            f"resize to {width}x{height}: expected uint8 (H, W, C) and sizes of at least 1, got {image_hwc_u8.dtype} "
            f"{image_hwc_u8.shape}; convert the frame first"
        )
    tables = axis_taps(image_hwc_u8.shape[0], height, filter), axis_taps(image_hwc_u8.shape[1], width, filter)
    return resample(image_hwc_u8, *tables)


def axis_taps(size_in: int, size_out: int, filter: Filter, keep: int | None = None) -> Taps | None:
    """The filter along one axis, of the middle `keep` pixels alone; None where nothing changes and Pillow skips it."""
    if size_in == size_out and keep in (None, size_out):
        return None
    size = size_out if keep is None else keep
    first = (size_out - size) // 2
    if size_in == size_out:
        return whole(first, size)
    return taps(size_in, size_out, filter, range(first, first + size))


def resample(image_hwc_u8: NDArray[np.uint8], rows: Taps | None, columns: Taps | None) -> NDArray[np.uint8]:
    """Both passes, horizontal first: uint8 (H, W, C) -> uint8 (len(rows), len(columns), C)."""
    wide = image_hwc_u8 if columns is None else _pass(image_hwc_u8, columns, axis=1)
    return wide if rows is None else _pass(wide, rows, axis=0)


def _pass(image: NDArray[np.uint8], table: Taps, axis: int) -> NDArray[np.uint8]:
    shape = list(image.shape)
    shape[axis] = len(table.weight)
    total = np.full(shape, 1 << (PRECISION_BITS - 1), np.int32)
    column = [1, 1, 1]
    column[axis] = -1
    for tap in range(table.weight.shape[1]):
        total += np.take(image, table.index[:, tap], axis=axis) * table.weight[:, tap].reshape(column)
    result: NDArray[np.uint8] = np.clip(total >> PRECISION_BITS, 0, 255).astype(np.uint8)
    return result


def to_rgb(image: NDArray[np.uint8], encoding: Encoding) -> NDArray[np.uint8]:
    """Any encoding to uint8 (H, W, 3) RGB; alpha is dropped, grey is repeated."""
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    return image if encoding == "rgb8" else image[:, :, list(CHANNEL_ORDER[encoding])]


def center_crop(image_hwc_u8: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The middle (height, width), a view; an odd remainder leaves one more row or column after it."""
    top, left = (image_hwc_u8.shape[0] - height) // 2, (image_hwc_u8.shape[1] - width) // 2
    return image_hwc_u8[top : top + height, left : left + width]


def pad(image_hwc_u8: NDArray[np.uint8], width: int, height: int, fill: int) -> NDArray[np.uint8]:
    """The picture in the top left corner of (height, width), `fill` elsewhere."""
    grown = np.full((height, width, image_hwc_u8.shape[2]), fill, np.uint8)
    grown[: image_hwc_u8.shape[0], : image_hwc_u8.shape[1]] = image_hwc_u8
    return grown


def place(image_hwc_u8: NDArray[np.uint8], into: Placed) -> NDArray[np.uint8]:
    """The picture in the middle, the colour around it; an odd remainder leaves one more row or column after it."""
    height, width = image_hwc_u8.shape[:2]
    grown = np.empty((into.height, into.width, 3), np.uint8)
    grown[:] = into.fill
    top, left = (into.height - height) // 2, (into.width - width) // 2
    grown[top : top + height, left : left + width] = image_hwc_u8
    return grown


def normalize_table(operation: Normalize) -> NDArray[np.float32]:
    """float32 (3, 256): the model's number for each byte of red, green and blue."""
    kind: Any = np.float64 if operation.rounding == "once" else np.float32
    scaled = (np.arange(256, dtype=np.float64) * operation.scale).astype(kind)
    mean, std = np.array(operation.mean, kind)[:, None], np.array(operation.std, kind)[:, None]
    table: NDArray[np.float32] = ((scaled - mean) / std).astype(np.float32)
    return table


def normalize(image_hwc_u8: NDArray[np.uint8], table: NDArray[np.float32], out_chw: NDArray[np.float32]) -> None:
    """Fill float32 (3, H, W) from uint8 (H, W, 3) RGB by table look-up."""
    for channel in range(3):
        np.take(table[channel], image_hwc_u8[:, :, channel], out=out_chw[channel])


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
    return _Smoothed(size, step) if isinstance(step, SmoothToSquare) else _PaddedResize(size, step)


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
        picture = UNIT[image_hwc_u8] if self._lines is None else _resized(image_hwc_u8, *self._lines)
        top, left = self._corner
        if not top and not left:
            return picture
        out = np.zeros((*self.shape, 3), np.float32)
        out[top:, left:] = picture
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


class _Weights(NamedTuple):
    """What each output pixel along one axis is made of.

    `places` and `weight` are (n, K): n is smaller than the size asked for where the last pixels see padding alone.
    """

    places: NDArray[np.intp]
    weight: NDArray[np.float32]


class _Smoothed:
    """`SmoothToSquare` for one size: padded to a square, smoothed and resized, without the square ever being built.

    Source: what transformers' Pillow-backed image processor of padded detectors does: scipy's gaussian_filter, then
    zoom of order 1 in grid mode, both with the edges mirrored. Here both are one weighted sum along each axis. Its last
    step, cutting off what is beyond the picture's range, has nothing to cut: all weights are positive, their sum is 1.
    """

    def __init__(self, size: tuple[int, int], step: SmoothToSquare) -> None:
        self.shape = (step.size, step.size)
        square = max(size)
        self._rows, self._columns = (_weights(inside, square, step.size) for inside in size)

    def __call__(self, image_hwc_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The picture in the top left corner, black elsewhere."""
        rows = _Weights(self._rows.places, self._rows.weight / np.float32(255))
        low = _summed(image_hwc_u8, rows)  # (n, W, 3)
        small = _summed(np.ascontiguousarray(low.swapaxes(0, 1)), self._columns)  # (m, n, 3)
        out = np.zeros((*self.shape, 3), np.float32)
        out[: small.shape[1], : small.shape[0]] = small.swapaxes(0, 1)
        return out


def _weights(inside: int, square: int, size_out: int) -> _Weights:
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
    used = int(np.flatnonzero(weight.any(axis=1))[-1]) + 1
    return _Weights(np.minimum(index, inside - 1)[:used], weight[:used])


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


def _summed(image: NDArray[Any], weights: _Weights) -> NDArray[np.float32]:
    """The weighted sums along the first axis."""
    total = np.zeros((len(weights.places), *image.shape[1:]), np.float32)
    for tap in range(weights.places.shape[1]):
        total += image[weights.places[:, tap]] * weights.weight[:, tap, None, None]
    return total
