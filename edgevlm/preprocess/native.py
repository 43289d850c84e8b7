"""The native module, where it was built."""

from __future__ import annotations

import importlib
import logging
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.contract import CHANNELS, Encoding
from edgevlm.manifest.image_ops import CenterCrop, Pad, Resize
from edgevlm.preprocess.twin import CHANNEL_ORDER

Work = tuple[Resize | None, CenterCrop | None, Pad | None]
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
        layout=(CHANNELS[encoding], *CHANNEL_ORDER[encoding]),
        resized=resized,
        filter="bilinear" if resize is None else resize.filter,
        crop_corner=((resized[0] - cropped[0]) // 2, (resized[1] - cropped[1]) // 2),
        crop=cropped,
        output=cropped if pad is None else (pad.height, pad.width),
        fill=0 if pad is None else pad.fill,
        table=table,
    )
