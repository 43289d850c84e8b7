"""Pictures and texts: what a retriever is calibrated on and judged by. A folder of image files, or made up."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import file_sha256
from edgevlm.data.damage import Damaged
from edgevlm.errors import CalibrationError, PictureError
from edgevlm.images.files import open_photo

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png")
HELD_OUT_EVERY = 3  # every third picture and text judges, and calibrates nothing
FEWEST = 6
MADE_UP = 12
MADE_UP_SIZES = ((240, 320), (320, 240), (200, 200), (480, 360))
T = TypeVar("T")

# For calibration where no texts are given: short and long, things and scenes, and some that are no English.
TEXTS = (
    *("a photo of a cat", "a photo of a dog", "a red cup on a table", "an empty room", "a street at night in the rain"),
    *("two people shaking hands", "a close-up of a flower", "a satellite picture of a coast", "a bowl of fruit"),
    *("a diagram of an engine with many labels", "text", "a black and white portrait of an old man", "green grass"),
    *("a robot arm reaching for a blue block", "the inside of a warehouse with shelves up to the ceiling", "a bicycle"),
    *("a plate of food next to a glass of water", "a child playing with a ball in the garden", "screws and bolts"),
    *("ein Foto von einem Hund", "une tasse de café", "una calle con coches", "an X-ray", "a blurry picture"),
    *("a page from a book", "stars in the night sky", "a painting of a ship in a storm", "metal surface, scratched"),
    *("a person wearing a helmet and a yellow vest", "nothing but sky"),
)


@dataclass(frozen=True)
class Photo:
    """One picture: `load` gives uint8 RGB (H, W, 3), or for a scorer the features of its regions, float32 (R, V)."""

    name: str
    load: Callable[[], NDArray[Any]]


@dataclass(frozen=True)
class PictureData:
    """Pictures and texts, split once into those that ranges come from and those that judge them.

    Attributes:
        sha256: over the picture files and the texts; empty for made-up pictures.
    """

    kind: Literal["pictures", "regions", "synthetic"]
    sha256: str
    calibration: tuple[Photo, ...]
    held_out: tuple[Photo, ...]
    calibration_texts: tuple[str, ...]
    held_out_texts: tuple[str, ...]


def open_pictures(folder: Path, texts: Path | None = None, limit: int | None = None) -> PictureData:
    """The JPEG and PNG files directly in `folder`, in the order of their names, evenly thinned out to `limit`.

    Raises:
        CalibrationError: no folder, or fewer than FEWEST pictures, or texts in it.
        PictureError: more of them are damaged than are left out.
    """
    if not folder.is_dir():
        raise CalibrationError(
            f"{folder}: expected a folder of pictures (JPEG, PNG), found {'a file' if folder.exists() else 'nothing'}; "
            "a model of pictures and texts is calibrated on pictures"
        )
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if len(files) < FEWEST:
        raise CalibrationError(f"{folder}: expected at least {FEWEST} pictures, found {len(files)}; add some")
    files = _sound(folder, thinned(files, limit))
    said = read_texts(texts)
    digest = hashlib.sha256("".join(f"{file_sha256(path)}\n" for path in files).encode())
    digest.update("\n".join(said).encode())
    photos = [Photo(path.name, partial(open_photo, path)) for path in files]
    return PictureData("pictures", digest.hexdigest(), *split(photos), *split(said))


def _sound(folder: Path, files: list[Path]) -> list[Path]:
    """The files that can be decoded; the others are named in the log. Raises PictureError: too many cannot."""
    damaged, kept = Damaged(str(folder), len(files)), []
    for path in files:
        try:
            open_photo(path)
        except PictureError as error:
            damaged.add(path.name, error)
        else:
            kept.append(path)
    if damaged.warning:
        logger.warning("%s", damaged.warning)
    if len(kept) < FEWEST:
        raise CalibrationError(f"{folder}: expected at least {FEWEST} pictures, {len(kept)} can be decoded; add some")
    return kept


def make_up_pictures(texts: Path | None = None, seed: int = 0) -> PictureData:
    """Seeded blocks and noise; they show that the graphs agree, and nothing about real pictures."""
    photos = [Photo(f"made-up-{i}", partial(_picture, seed + i)) for i in range(MADE_UP)]
    return PictureData("synthetic", "", *split(photos), *split(read_texts(texts)))


def read_texts(path: Path | None) -> tuple[str, ...]:
    """The lines of a UTF-8 file that are not blank, each once; TEXTS where there is none.

    Raises:
        CalibrationError: it cannot be read, or has fewer than FEWEST lines.
    """
    if path is None:
        return TEXTS
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: cannot be read ({error}); give a text file, one text a line") from error
    found = tuple(dict.fromkeys(line for line in lines if line))
    if len(found) < FEWEST:
        raise CalibrationError(f"{path}: expected at least {FEWEST} texts, one a line, found {len(found)}; add some")
    return found


def thinned(files: list[Path], limit: int | None) -> list[Path]:
    """At most `limit` of them, evenly apart, first and last among them."""
    if limit is None or len(files) <= limit:
        return files
    return [files[i] for i in np.unique(np.linspace(0, len(files) - 1, max(limit, FEWEST)).round().astype(int))]


def split(items: list[T] | tuple[T, ...]) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """(calibration, held out)."""
    return (
        tuple(item for i, item in enumerate(items) if (i + 1) % HELD_OUT_EVERY),
        tuple(item for i, item in enumerate(items) if not (i + 1) % HELD_OUT_EVERY),
    )


def _picture(seed: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    height, width = MADE_UP_SIZES[seed % len(MADE_UP_SIZES)]
    coarse = generator.integers(0, 256, (8, 8, 3)).astype(np.int16)
    blocks = np.repeat(np.repeat(coarse, -(-height // 8), 0), -(-width // 8), 1)[:height, :width]
    noisy: NDArray[np.uint8] = np.clip(blocks + generator.integers(-8, 9, blocks.shape), 0, 255).astype(np.uint8)
    return noisy
