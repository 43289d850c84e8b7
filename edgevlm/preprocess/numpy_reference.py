"""The operations in NumPy: the fallback where the native module is missing, and its oracle everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import ShapeError
from edgevlm.manifest.contract import Encoding
from edgevlm.manifest.image_ops import Filter, Normalize
from edgevlm.preprocess.filters import PRECISION_BITS, Taps, taps, whole
from edgevlm.preprocess.sizes import Placed

CHANNEL_ORDER: Mapping[Encoding, tuple[int, int, int]] = {  # where red, green and blue lie in a pixel
    "rgb8": (0, 1, 2),
    "bgr8": (2, 1, 0),
    "rgba8": (0, 1, 2),
    "bgra8": (2, 1, 0),
    "mono8": (0, 0, 0),
}


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
    kept = size_out if keep is None else keep
    first = (size_out - kept) // 2
    if size_in == size_out:
        return whole(first, kept)
    return taps(size_in, size_out, filter, range(first, first + kept))


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
