"""Do the texts and pictures of an export fit into what the model reads? Counted before the weights are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from edgevlm.data.pictures import FEWEST, Photo, PictureData
from edgevlm.errors import CalibrationError, FamilyError
from edgevlm_calibration.chat import PROMPTS, strip
from edgevlm_calibration.pictures import questions
from edgevlm_export.fidelity.chat import TILES
from edgevlm_export.prepared import Room, Size
from edgevlm_export.quantization import QUANTIZERS
from edgevlm_export.recipes.base import ExportOptions


@dataclass(frozen=True)
class Read:
    """A text that the model will read, the picture beside it, and the most tiles of it that are shown."""

    text: str
    photo: Photo | None = None
    tiles: int | None = None


def texts_alone(data: PictureData) -> Iterator[Read]:
    """Every text, read by itself."""
    return (Read(text) for text in (*data.calibration_texts, *data.held_out_texts))


def paired_with_pictures(data: PictureData, options: ExportOptions) -> Iterator[Read]:
    """Every text beside the picture that it is asked with; only some precisions read those of the calibration."""
    parts: list[tuple[tuple[Photo, ...], tuple[str, ...], int | None]]
    parts = [(data.held_out, data.held_out_texts, TILES)]
    quantizer = QUANTIZERS[options.precision]
    if quantizer.needs_table or quantizer.measured:
        parts.append((data.calibration, data.calibration_texts, None))
    for photos, texts, tiles in parts:
        for photo, text in questions(photos, texts, max(PROMPTS, len(texts))):
            yield Read(text, photo, tiles)


def fitting(data: PictureData, room: Room | None, options: ExportOptions, reads: Iterable[Read]) -> PictureData:
    """`data` without built-in texts that the model has no room for.

    Raises:
        CalibrationError: a text of the user's is too long, or too few built-in ones are short enough.
        FamilyError: a picture, a question and an answer are too long together.
    """
    long, sizes = set[str](), dict[str, Size]()
    for read in reads if room else ():
        assert room is not None
        used = room.count(read.text, _pixel_size(room, read, sizes))
        if used + room.answer <= room.most:
            continue
        if options.texts is not None or read.photo is not None:
            raise _too_long(room, read, used, options)
        long.add(read.text)
    calibration, held_out = (
        tuple(text for text in texts if text not in long) for texts in (data.calibration_texts, data.held_out_texts)
    )
    if long and len(calibration) + len(held_out) < FEWEST:
        assert room is not None
        raise CalibrationError(
            f"the built-in texts: expected at least {FEWEST} of at most {room.most} tokens, got "
            f"{len(calibration) + len(held_out)}; give short ones with --texts"
        )
    return replace(data, calibration_texts=calibration, held_out_texts=held_out) if long else data


def _pixel_size(room: Room, read: Read, sizes: dict[str, Size]) -> Size:
    """(height, width) of what is shown of the picture; decoded once."""
    if read.photo is None:
        return 0, 0
    if read.photo.name not in sizes:
        height, width = read.photo.load().shape[:2]
        sizes[read.photo.name] = height, width
    height, width = sizes[read.photo.name]
    rows = strip((height, width), read.tiles, room.tiles((height, width)))
    return rows.stop - rows.start, width


def _too_long(room: Room, read: Read, used: int, options: ExportOptions) -> CalibrationError | FamilyError:
    more = f", or raise {room.raised_by}" if room.raised_by else ""
    most = f"at most {room.most - room.answer} tokens" + (f" beside an answer of {room.answer}" if room.answer else "")
    if read.photo is None:
        return CalibrationError(
            f"{options.texts}: expected texts of {most}, got {used} for {read.text!r:.80}; shorten it{more}"
        )
    return FamilyError(
        f"the picture {read.photo.name!r} with the text {read.text!r:.60}: expected {most}, got {used}; "
        f"take smaller pictures or shorter texts{more}"
    )
