"""Features of a picture's regions, as a detector gives them: checked before a model reads them, or from a .npy file."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bounded import map_numbers
from edgevlm.errors import ContractError, NonFiniteError, ShapeError
from edgevlm.manifest.stages import StageSpec

MAX_BYTES = 64 << 20  # 256 regions of 2048 numbers have 2 MB
DETECT = "give what the detector that the model was trained with says of each region"


def open_features(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array of a .npy file, whatever numbers they are. Objects are never read: they would be code.

    Raises:
        ContractError: it cannot be read, has more than MAX_BYTES, or is no .npy file of numbers.
    """
    expectation = f"{os.fspath(path)}: expected a .npy file, float32 (regions, features)"
    try:
        size = os.stat(path).st_size
        if size > MAX_BYTES:
            raise ContractError(f"{expectation}, got more than {MAX_BYTES} bytes; {DETECT}")
        return np.array(map_numbers(path))
    except (OSError, ValueError) as error:  # ValueError: also a null byte in the name
        raise ContractError(f"{expectation}, got {error!s:.200}; write one array with numpy.save") from error


def feature_limits(stage: StageSpec, port: str) -> tuple[int, int, int]:
    """(fewest regions, most regions, V) that a port (1, R, V) of the stage takes."""
    _, regions, width = next(one.shape for one in stage.inputs if one.name == port)
    low, _, high = stage.dynamic[regions] if isinstance(regions, str) else (regions,) * 3
    return low, high, int(width)


def check_features(features: Any, stage: StageSpec, port: str) -> NDArray[np.float32]:
    """`features`, if they fit the port (1, R, V) of the stage.

    Raises:
        ShapeError: no float32 array, another width, no region, or more than the stage takes.
        NonFiniteError: NaN or infinity.
    """
    low, high, width = feature_limits(stage, port)
    expectation = f"features: expected a float32 array ({low} to {high} regions, {width} features)"
    if not isinstance(features, np.ndarray) or features.dtype != np.float32:
        got = f"{features.dtype} {features.shape}" if isinstance(features, np.ndarray) else f"{features!r:.80}"
        raise ShapeError(f"{expectation}, got {got}; {DETECT}")
    if features.ndim != 2 or features.shape[1] != width or not low <= features.shape[0] <= high:
        raise ShapeError(f"{expectation}, got {features.shape}; {DETECT}")
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise NonFiniteError(f"features: expected finite numbers, got NaN or infinity in region {row}; {DETECT}")
    return features
