"""The native module, where it was built: one operation by it or in NumPy, and what it does to a frame in one call."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.contract import CHANNELS, CameraSpec, Encoding
from edgevlm.manifest.image_ops import CenterCrop, Pad, Resize
from edgevlm.preprocess import numpy_reference as reference
from edgevlm.preprocess.sizes import Placed, Step

Work = tuple[Resize | None, CenterCrop | None, Pad | None]
ImageStep = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
_NO_TABLE = np.zeros((3, 256), np.float32)  # bytes leave the plan before they would be looked up
_log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def native_module() -> Any:
    """`edgevlm._native`, or None with one log line that says what its absence costs."""
    try:
        return importlib.import_module("edgevlm._native")
    except ImportError as error:
        _log.warning(
            "edgevlm was installed without its native module (%s): images are prepared in NumPy, with the same bytes "
            "but some twenty times slower; install a C++ compiler and reinstall edgevlm to get it",
            error,
        )
        return None


def native_available() -> bool:
    """Whether the native module can be used here."""
    return native_module() is not None


def native_plan(source: tuple[int, int], encoding: Encoding, work: Work, table: NDArray[np.float32]) -> Any:
    """What the native module does in one call to frames of `source` (height, width): [resize] [crop] [pad], normalize.

    Raises:
        ValueError: the sizes do not fit each other.
    """
    resize, crop, pad = work
    resized = source if resize is None else (resize.height, resize.width)
    cropped = resized if crop is None else (crop.height, crop.width)
    return native_module().ImagePlan(
        source=source,
        layout=(CHANNELS[encoding], *reference.CHANNEL_ORDER[encoding]),
        resized=resized,
        filter="bilinear" if resize is None else resize.filter,
        crop_corner=((resized[0] - cropped[0]) // 2, (resized[1] - cropped[1]) // 2),
        crop=cropped,
        output=cropped if pad is None else (pad.height, pad.width),
        fill=0 if pad is None else pad.fill,
        table=table,
    )


def image_step(size: tuple[int, int], step: Step, native: bool) -> ImageStep:
    """uint8 (H, W, 3) of `size` (height, width) -> uint8 (step.height, step.width, 3). Threads may share one."""
    if isinstance(step, CenterCrop):
        return lambda image: reference.center_crop(image, step.width, step.height)
    if isinstance(step, Pad):
        return lambda image: reference.pad(image, step.width, step.height, step.fill)
    if not isinstance(step, Resize):
        return lambda image: reference.place(image, step)
    if size == (step.height, step.width):
        return lambda image: image
    return _native_resize(size, step) if native else _numpy_resize(size, step)


def _native_resize(size: tuple[int, int], step: Resize) -> ImageStep:
    plan = native_plan(size, "rgb8", (step, None, None), _NO_TABLE)

    def run(image_hwc_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        out = np.empty((step.height, step.width, 3), np.uint8)
        plan.run_bytes(image_hwc_u8, out)
        return out

    return run


def _numpy_resize(size: tuple[int, int], step: Resize) -> ImageStep:
    rows = reference.axis_taps(size[0], step.height, step.filter)
    columns = reference.axis_taps(size[1], step.width, step.filter)
    return lambda image: reference.resample(image, rows, columns)


@dataclass(frozen=True)
class Fused:
    """A native plan, and what comes before it."""

    native: Any
    first: ImageStep | None

    def run(self, image: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Fill `out` (1, 3, H, W) from a frame that was checked; lets go of the GIL.

        No pixels are allocated where nothing, or a crop, comes first.
        """
        self.native.run(image if self.first is None else self.first(image), out)


def fused_plan(camera: CameraSpec, steps: Sequence[Step], table: NDArray[np.float32]) -> Fused | None:
    """The native plan for a camera; None where the steps come in another order, which NumPy takes."""
    rest, source = list(steps), (camera.height, camera.width)
    first = None
    if _comes_before(camera, rest):
        before = rest.pop(0)
        first, source = image_step(source, before, native=True), (before.height, before.width)
    work = _next(rest, Resize), _next(rest, CenterCrop), _next(rest, Pad)
    return None if rest else Fused(native_plan(source, camera.encoding, work, table), first)


def _comes_before(camera: CameraSpec, steps: Sequence[Step]) -> bool:
    """Whether the first step is done apart: a crop or a resize before a resize, or a frame around the picture."""
    resized_after = len(steps) > 1 and isinstance(steps[1], Resize)
    if steps and isinstance(steps[0], CenterCrop):
        return resized_after
    known = camera.encoding == "rgb8"  # what `image_step` takes
    return known and bool(steps) and (isinstance(steps[0], Placed) or (resized_after and isinstance(steps[0], Resize)))


def _next(steps: list[Step], kind: type[Any]) -> Any:
    return steps.pop(0) if steps and isinstance(steps[0], kind) else None
