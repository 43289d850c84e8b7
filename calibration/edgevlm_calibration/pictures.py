"""How models of pictures and texts run over them: by themselves or in pairs, each once before one comes again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgevlm.data.pictures import Photo, PictureData
from edgevlm.tasks import Detector, Retriever, Scorer
from edgevlm_calibration.runner import CalibrationRun, each
from edgevlm_calibration.table import PictureSplit

Pair = tuple[Photo, str]


def questions(photos: Sequence[Photo], texts: Sequence[str], most: int) -> list[Pair]:
    """Up to `most` pairs; every picture and every text comes once before one comes again."""
    pairs = min(most, max(len(photos), len(texts)))
    return [(photos[i % len(photos)], texts[i % len(texts)]) for i in range(pairs)]


def origin(data: PictureData) -> dict[str, Any]:
    """The names of the pictures, and the texts, of both parts."""
    split = PictureSplit(
        calibration=tuple(photo.name for photo in data.calibration),
        held_out=tuple(photo.name for photo in data.held_out),
        calibration_texts=data.calibration_texts,
        held_out_texts=data.held_out_texts,
    )
    return {"split": split}


def _alone(data: PictureData, most: int | None) -> list[Photo | str]:
    return [*data.calibration_texts[:most], *data.calibration[:most]]


def _pairs(data: PictureData, most: int | None) -> list[Pair]:
    pairs = max(len(data.calibration), len(data.calibration_texts))
    return questions(data.calibration, data.calibration_texts, pairs if most is None else most)


def _embed(retriever: Retriever, sample: Photo | str) -> None:
    if isinstance(sample, Photo):
        retriever.embed_image(sample.load())
    else:
        retriever.embed_text(sample)


def _match(retriever: Retriever, pair: Pair) -> None:
    photo, text = pair
    retriever.match([photo.load()], [text])
    if retriever.encodes_texts:
        retriever.embed_text(text)


def _detect(detector: Detector, pair: Pair) -> None:
    photo, text = pair
    detector.regions(photo.load(), [text])


def _score(scorer: Scorer, pair: Pair) -> None:
    photo, text = pair
    scorer.score(photo.load(), text)


RETRIEVER = CalibrationRun(open=Retriever, samples=_alone, play=each(_embed), origin=origin)
MATCHER = CalibrationRun(open=Retriever, samples=_pairs, play=each(_match), origin=origin)  # where pairs are read
DETECTOR = CalibrationRun(open=Detector, samples=_pairs, play=each(_detect), origin=origin)
SCORER = CalibrationRun(open=Scorer, samples=_pairs, play=each(_score), origin=origin)
