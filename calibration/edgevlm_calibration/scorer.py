"""How a scorer is calibrated: pairs of regions and texts, each of them once."""

from __future__ import annotations

from edgevlm.bundle import Bundle
from edgevlm.data.pictures import Photo, PictureData
from edgevlm.engines import EngineFactory
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Scorer
from edgevlm_calibration.pictures import CalibrationRun, questions

Visit = tuple[Photo, str]


def _open(bundle: Bundle, options: RuntimeOptions, engines: EngineFactory) -> Scorer:
    return Scorer(bundle, options, engines=engines)


def _visits(data: PictureData, most: int | None) -> list[Visit]:
    pairs = max(len(data.calibration), len(data.calibration_texts))
    return questions(data.calibration, data.calibration_texts, pairs if most is None else most)


def _show(scorer: Scorer, visit: Visit) -> None:
    scorer.score(visit[0].load(), visit[1])


SCORER = CalibrationRun(open=_open, visits=_visits, show=_show, runs=lambda scorer: scorer.stage_runs)
