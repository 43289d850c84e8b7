"""One operation on RGB pictures of one size, prepared: native where it can be, else its twin."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.image_ops import CenterCrop, Pad, Resize
from edgevlm.preprocess import twin
from edgevlm.preprocess.native import native_plan
from edgevlm.preprocess.sizes import Step

ImageStep = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
_NO_TABLE = np.zeros((3, 256), np.float32)  # bytes leave the plan before they would be looked up


def image_step(size: tuple[int, int], step: Step, native: bool) -> ImageStep:
    """uint8 (H, W, 3) of `size` (height, width) -> uint8 (step.height, step.width, 3). Threads may share one."""
    if isinstance(step, CenterCrop):
        return lambda image: twin.center_crop(image, step.width, step.height)
    if isinstance(step, Pad):
        return lambda image: twin.pad(image, step.width, step.height, step.fill)
    if not isinstance(step, Resize):
        return lambda image: twin.place(image, step)
    if size == (step.height, step.width):
        return lambda image: image
    return _native_resize(size, step) if native else _twin_resize(size, step)


def _native_resize(size: tuple[int, int], step: Resize) -> ImageStep:
    plan = native_plan(size, "rgb8", (step, None, None), _NO_TABLE)

    def run(image_hwc_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        out = np.empty((step.height, step.width, 3), np.uint8)
        plan.run_bytes(image_hwc_u8, out)
        return out

    return run


def _twin_resize(size: tuple[int, int], step: Resize) -> ImageStep:
    rows = twin.axis_taps(size[0], step.height, step.filter)
    columns = twin.axis_taps(size[1], step.width, step.filter)
    return lambda image: twin.resample(image, rows, columns)
