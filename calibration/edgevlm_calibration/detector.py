"""How a detector is calibrated: each picture and each label comes once before one comes again."""

from __future__ import annotations

from edgevlm.bundle import Bundle
from edgevlm.data.pictures import Photo, PictureData
from edgevlm.engines import EngineFactory
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Detector
from edgevlm_calibration.pictures import CalibrationRun, questions

Visit = tuple[Photo, str]


def _open(bundle: Bundle, options: RuntimeOptions, engines: EngineFactory) -> Detector:
    return Detector(bundle, options, engines=engines)


def _visits(data: PictureData, most: int | None) -> list[Visit]:
    all_of_them = max(len(data.calibration), len(data.calibration_texts))
    return questions(data.calibration, data.calibration_texts, all_of_them if most is None else most)


def _show(detector: Detector, visit: Visit) -> None:
    photo, text = visit
    detector.regions(photo.load(), [text])


DETECTOR = CalibrationRun(open=_open, visits=_visits, show=_show, runs=lambda detector: detector.stage_runs)
