"""What the native module does in one call, [resize] [crop] [pad] and normalize, and what may come before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.contract import CameraSpec
from edgevlm.manifest.image_ops import CenterCrop, Pad, Resize
from edgevlm.preprocess.image_step import ImageStep, image_step
from edgevlm.preprocess.native import native_plan
from edgevlm.preprocess.sizes import Placed, Step


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


def plan(camera: CameraSpec, steps: Sequence[Step], table: NDArray[np.float32]) -> Fused | None:
    """The native plan for a camera; None where the steps come in another order, which the twin takes."""
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
