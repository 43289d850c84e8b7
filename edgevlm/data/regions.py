"""Features of regions and texts: what a scorer is calibrated on and judged by. A folder of .npy files, or made up."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import file_sha256
from edgevlm.data.pictures import FEWEST, MADE_UP, Photo, PictureData, read_texts, split, thinned
from edgevlm.errors import CalibrationError, ContractError
from edgevlm.tasks.features import open_features

SUFFIX = ".npy"
MADE_UP_REGIONS = (36, 20, 10, 50)


def open_regions(
    folder: Path, limits: tuple[int, int, int], texts: Path | None = None, limit: int | None = None
) -> PictureData:
    """The .npy files directly in `folder`, each float32 (R, V), in the order of their names, thinned to `limit`.

    `limits` is what the model takes, see `feature_limits`: (fewest regions, most regions, V).

    Raises:
        CalibrationError: no folder, or fewer than FEWEST files, or texts in it, or a file that is something else.
    """
    if not folder.is_dir():
        raise CalibrationError(
            f"{folder}: expected a folder of .npy files with features of regions, found "
            f"{'a file' if folder.exists() else 'nothing'}; a scorer is calibrated on what a detector gives"
        )
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == SUFFIX and path.is_file())
    if len(files) < FEWEST:
        raise CalibrationError(
            f"{folder}: expected at least {FEWEST} .npy files with features of regions, found {len(files)}; add some"
        )
    files = thinned(files, limit)
    said = read_texts(texts)
    digest = hashlib.sha256("".join(f"{file_sha256(path)}\n" for path in files).encode())
    digest.update("\n".join(said).encode())
    each = [Photo(path.name, partial(_read, path, limits)) for path in files]
    for one in each:
        one.load()  # here, not in the middle of an export
    return PictureData("regions", digest.hexdigest(), *split(each), *split(said))


def make_up_regions(width: int, texts: Path | None = None, seed: int = 0) -> PictureData:
    """Seeded features, half of them zero as detectors give them; they show that the graphs agree and nothing more."""
    each = [Photo(f"made-up-{i}", partial(_made_up, seed + i, width)) for i in range(MADE_UP)]
    return PictureData("synthetic", "", *split(each), *split(read_texts(texts)))


def _read(path: Path, limits: tuple[int, int, int]) -> NDArray[np.float32]:
    try:
        found = open_features(path)
    except ContractError as error:
        raise CalibrationError(str(error)) from error
    low, high, width = limits
    fits = found.dtype == np.float32 and found.ndim == 2 and found.shape[1] == width and low <= len(found) <= high
    if not fits or not np.isfinite(found).all():
        raise CalibrationError(
            f"{path}: expected finite float32 features ({low} to {high} regions, {width}), got {found.dtype} "
            f"{found.shape}; take it out of the folder, or save what the model's own detector gives"
        )
    return found


def _made_up(seed: int, width: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    regions = MADE_UP_REGIONS[seed % len(MADE_UP_REGIONS)]
    drawn = generator.standard_normal(width) + generator.standard_normal((regions, width))  # regions are akin
    return np.maximum(drawn, 0).astype(np.float32)
