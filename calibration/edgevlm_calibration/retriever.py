"""How a retriever is calibrated: each text and each picture once, by themselves, or in pairs where it reads pairs."""

from __future__ import annotations

from edgevlm.bundle import Bundle
from edgevlm.data.pictures import Photo, PictureData
from edgevlm.engines import EngineFactory
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Retriever
from edgevlm_calibration.pictures import CalibrationRun, questions


def _open(bundle: Bundle, options: RuntimeOptions, engines: EngineFactory) -> Retriever:
    return Retriever(bundle, options, engines=engines)


def _visits(data: PictureData, most: int | None) -> list[Photo | str]:
    return [*data.calibration_texts[:most], *data.calibration[:most]]


def _pairs(data: PictureData, most: int | None) -> list[tuple[Photo, str]]:
    pairs = max(len(data.calibration), len(data.calibration_texts))
    return questions(data.calibration, data.calibration_texts, pairs if most is None else most)


def _show(retriever: Retriever, visit: Photo | str) -> None:
    if isinstance(visit, Photo):
        retriever.embed_image(visit.load())
    else:
        retriever.embed_text(visit)


def _show_pair(retriever: Retriever, visit: tuple[Photo, str]) -> None:
    photo, text = visit
    retriever.match([photo.load()], [text])
    if retriever.encodes_texts:
        retriever.embed_text(text)


RETRIEVER = CalibrationRun(open=_open, visits=_visits, show=_show, runs=lambda retriever: retriever.stage_runs)
MATCHER = CalibrationRun(open=_open, visits=_pairs, show=_show_pair, runs=lambda retriever: retriever.stage_runs)
