"""What the native module does in one call: [crop] [resize] [crop] [pad], then normalize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.contract import CHANNELS, CameraSpec
from edgevlm.operations import CenterCrop, Pad, Resize
from edgevlm.preprocess.native import native_module
from edgevlm.preprocess.twin import CHANNEL_ORDER, center_crop

Step = Resize | CenterCrop | Pad


@dataclass(frozen=True)
class Fused:
    """A native plan, and the crop before it, which is a view."""

    native: Any
    first_crop: CenterCrop | None

    def run(self, image: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Fill `out` (1, 3, H, W) from a frame that was checked; allocates no pixels, lets go of the GIL."""
        crop = self.first_crop
        self.native.run(image if crop is None else center_crop(image, crop.width, crop.height), out)


def plan(camera: CameraSpec, steps: Sequence[Step], table: NDArray[np.float32]) -> Fused | None:
    """The native plan for a camera; None where the steps come in another order, which the twin takes."""
    rest = list(steps)
    first = _next(rest, CenterCrop) if len(rest) > 1 and isinstance(rest[1], Resize) else None
    resize, crop, pad = _next(rest, Resize), _next(rest, CenterCrop), _next(rest, Pad)
    if rest:
        return None
    source = (camera.height, camera.width) if first is None else (first.height, first.width)
    resized = source if resize is None else (resize.height, resize.width)
    cropped = resized if crop is None else (crop.height, crop.width)
    native = native_module().ImagePlan(
        source=source,
        layout=(CHANNELS[camera.encoding], *CHANNEL_ORDER[camera.encoding]),
        resized=resized,
        bicubic=resize is not None and resize.filter == "bicubic",
        crop_corner=((resized[0] - cropped[0]) // 2, (resized[1] - cropped[1]) // 2),
        crop=cropped,
        output=cropped if pad is None else (pad.height, pad.width),
        fill=0 if pad is None else pad.fill,
        table=table,
    )
    return Fused(native, first)


def _next(steps: list[Step], kind: type[Any]) -> Any:
    return steps.pop(0) if steps and isinstance(steps[0], kind) else None
