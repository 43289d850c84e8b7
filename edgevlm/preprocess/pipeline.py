"""One camera's way into the model: the manifest's operations, prepared once for the camera's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import BundleError, DependencyError, ShapeError
from edgevlm.manifest.contract import CameraSpec, CheckedFrame, check_frame
from edgevlm.manifest.image_ops import CenterCrop, Floating, ImageOp, Normalize, Pad, Relative, Resize, Sized, Tiles
from edgevlm.preprocess import numpy_reference as reference
from edgevlm.preprocess.filters import Taps
from edgevlm.preprocess.native import fused_plan, native_available
from edgevlm.preprocess.sizes import Placed, Step, sized


class Preprocessor:
    """uint8 frame in the camera's encoding -> float32 (1, 3, H, W) RGB. Threads may share one."""

    def __init__(self, camera: CameraSpec, ops: Sequence[ImageOp], native: bool | None = None) -> None:
        """Prepare coefficients; `native` None takes the native module where there is one.

        Raises:
            BundleError: the operations do not fit the camera or each other.
            DependencyError: `native` is True and there is no native module, or none for these operations.
        """
        self.camera = camera
        steps, floating, self._normalization = _split(camera, ops)
        self._steps = sized(camera.height, camera.width, steps)
        self._table = reference.normalize_table(self._normalization)
        size = _sizes(camera, self._steps)[-1]
        self._floating = None if floating is None else _prepared(camera, size, floating)
        height, width = size if self._floating is None else self._floating.shape
        self.shape = (1, 3, height, width)
        if native and not native_available():
            raise DependencyError("native preprocessing: expected edgevlm._native, it was not built; reinstall edgevlm")
        usable_native = native is not False and native_available() and self._floating is None
        self._fused = fused_plan(camera, self._steps, self._table) if usable_native else None
        if native and self._fused is None:
            raise DependencyError(
                f"native preprocessing of camera {camera.name!r}: expected [crop] [resize] [crop] [pad], got "
                f"[{', '.join(step.op for step in ops[:-1])}]; leave `native` to None"
            )
        self._taps: dict[int, tuple[Taps | None, Taps | None]] = {}
        if self._fused is None:
            self._taps = _all_taps(camera, self._steps)

    @property
    def native(self) -> bool:
        """Whether frames go through the native module: it takes [crop] [resize] [crop] [pad], in this order."""
        return self._fused is not None

    def __call__(self, image_hwc_u8: NDArray[np.uint8], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The frame as the model wants it: float32 (1, 3, H, W), `out` itself where it is given.

        Raises:
            ShapeError: the frame or `out` has another shape, dtype or layout.
        """
        return self.prepare(check_frame(self.camera, image_hwc_u8), out)

    def prepare(self, image: CheckedFrame, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """As a call, of a frame that was checked where it came in. Raises ShapeError: `out` does not fit."""
        result = np.empty(self.shape, np.float32) if out is None else self._checked(out)
        if self._fused is not None:
            self._fused.run(image, result)
        elif self._floating is not None:
            reference.normalize_float(self._floating(self._apply(image)), self._normalization, result[0])
        else:
            reference.normalize(self._apply(image), self._table, result[0])
        return result

    def _apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        picture = reference.to_rgb(image, self.camera.encoding)
        for place, step in enumerate(self._steps):
            if place - 1 in self._taps and isinstance(step, CenterCrop):
                continue  # the resize before it has made no more than this crop
            if isinstance(step, Resize):
                picture = reference.resample(picture, *self._taps[place])
            elif isinstance(step, CenterCrop):
                picture = reference.center_crop(picture, step.width, step.height)
            elif isinstance(step, Placed):
                picture = reference.place(picture, step)
            else:
                picture = reference.pad(picture, step.width, step.height, step.fill)
        return picture

    def _checked(self, out: NDArray[np.float32]) -> NDArray[np.float32]:
        usable = isinstance(out, np.ndarray) and out.shape == self.shape and out.dtype == np.float32
        if not usable or not out.flags.c_contiguous or not out.flags.writeable:
            got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
            raise ShapeError(
                f"out of camera {self.camera.name!r}: expected writable contiguous float32 {self.shape}, got {got}; "
                "allocate it with numpy.empty(preprocessor.shape, numpy.float32)"
            )
        return out


def _split(
    camera: CameraSpec, ops: Sequence[ImageOp]
) -> tuple[tuple[Sized | Relative, ...], Floating | None, Normalize]:
    """The operations on bytes, the one in float32 if there is one, and what ends them all."""
    steps = tuple(op for op in ops if not isinstance(op, (Normalize, Tiles, Floating)))
    floating = ops[-2] if len(ops) > 1 and isinstance(ops[-2], Floating) else None
    rest = 1 if floating is None else 2
    if not ops or len(steps) != len(ops) - rest or not isinstance(ops[-1], Normalize):
        raise BundleError(
            f"preprocess of camera {camera.name!r}: expected one normalize, as the last operation, and no tiles, and "
            f"an operation in float32 only directly before it, got {[op.op for op in ops]}; export the bundle again"
        )
    if not all(ops[-1].std):
        raise BundleError(
            f"preprocess of camera {camera.name!r}: expected std other than 0, got {ops[-1].std}; export it again"
        )
    if floating is not None and ops[-1].scale != 1.0:
        raise BundleError(
            f"preprocess of camera {camera.name!r}: expected a normalize of scale 1 after {floating.op}, which gives "
            f"numbers from 0 to 1, got {ops[-1].scale}; export the bundle again"
        )
    return steps, floating, ops[-1]


def _prepared(camera: CameraSpec, size: tuple[int, int], floating: Floating) -> reference.FloatChange:
    try:
        return reference.float_change(size, floating)
    except ValueError as error:
        raise BundleError(
            f"preprocess of camera {camera.name!r}: {floating.op}: {error}; export the bundle again"
        ) from error


def _sizes(camera: CameraSpec, steps: Sequence[Step]) -> list[tuple[int, int]]:
    """(height, width) before each step and after the last."""
    sizes = [(camera.height, camera.width)]
    for step in steps:
        height, width = sizes[-1]
        too_large = isinstance(step, CenterCrop) and (step.height > height or step.width > width)
        too_small = isinstance(step, Pad) and (step.height < height or step.width < width)
        if too_large or too_small:
            raise BundleError(
                f"preprocess of camera {camera.name!r}: {step.op} to {step.width}x{step.height} does not fit a picture "
                f"of {width}x{height}; export the bundle again"
            )
        sizes.append((step.height, step.width))
    return sizes


def _all_taps(camera: CameraSpec, steps: Sequence[Step]) -> dict[int, tuple[Taps | None, Taps | None]]:
    """The filters of every resize; where a crop follows, only those of the pixels that it keeps."""
    tables = {}
    for place, (before, step) in enumerate(zip(_sizes(camera, steps), steps, strict=False)):
        if not isinstance(step, Resize):
            continue
        after = steps[place + 1] if place + 1 < len(steps) else None
        cropped = (after.height, after.width) if isinstance(after, CenterCrop) else (step.height, step.width)
        rows, columns = (
            reference.axis_taps(size_in, size_out, step.filter, keep)
            for size_in, size_out, keep in zip(before, (step.height, step.width), cropped, strict=True)
        )
        tables[place] = (rows, columns)
    return tables
