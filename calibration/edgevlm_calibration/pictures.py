"""An fp32 model of pictures and words -> activation ranges, and what its stages were given on the way.

Whatever the task, the model is opened as the runtime opens it and shown pictures and texts as a user would: the inputs
of each stage are what it will see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edgevlm.bundle import Bundle
from edgevlm.data.pictures import Photo, PictureData
from edgevlm.engines import EngineFactory, hooked
from edgevlm.options import RuntimeOptions
from edgevlm_calibration.calibrate import OBSERVER, OPTIONS, table_stages
from edgevlm_calibration.hooks import Feeds, Observer, Recorder
from edgevlm_calibration.observers import OBSERVERS
from edgevlm_calibration.progress import Progress, silent
from edgevlm_calibration.table import PictureSplit, Table

Model = TypeVar("Model")
CalibrationSample = Any  # a picture, a text, or both: what a run's `show` takes


@dataclass(frozen=True)
class CalibrationRun(Generic[Model]):
    """How the models of one task are shown pictures and texts.

    Attributes:
        open: a bundle, with these engines, as a model.
        visits: what of the calibration part is shown, in turn; `most` is a bound where a few are enough.
        show: one visit; how much of an answer is looked at is the task's own choice.
        runs: stage -> engine runs so far.
    """

    open: Callable[[Bundle, RuntimeOptions, EngineFactory], AbstractContextManager[Model]]
    visits: Callable[[PictureData, int | None], Sequence[CalibrationSample]]
    show: Callable[[Model, CalibrationSample], None]
    runs: Callable[[Model], Mapping[str, int]]


def calibrate_pictures(
    bundle: Bundle, data: PictureData, tour: CalibrationRun[Model], progress: Progress = silent
) -> Table:
    """A table for an fp32 bundle from the calibration pictures and texts of `data`."""
    observer = Observer()
    visits = tour.visits(data, None)
    with tour.open(bundle, OPTIONS, observer.open) as model:
        for done, visit in enumerate(visits):
            progress("calibrate", done, len(visits))
            tour.show(model, visit)
        runs = dict(tour.runs(model))
    progress("calibrate", len(visits), len(visits))
    return Table(
        bundle_sha256=bundle.sha256,
        log_sha256=data.sha256,
        observer=OBSERVER,
        requested=len(visits),
        samples=len(visits),
        stage_runs=runs,
        stages=table_stages(observer.ranges, OBSERVERS[OBSERVER]),
        split=PictureSplit(
            calibration=tuple(photo.name for photo in data.calibration),
            held_out=tuple(photo.name for photo in data.held_out),
            calibration_texts=data.calibration_texts,
            held_out_texts=data.held_out_texts,
        ),
    )


def record(bundle: Bundle, data: PictureData, tour: CalibrationRun[Model], most: int) -> Feeds:
    """stage -> what it was given in at most so many visits of the calibration part."""
    recorder = Recorder(bundle)
    with tour.open(bundle, OPTIONS, hooked(recorder)) as model:
        for visit in tour.visits(data, most):
            tour.show(model, visit)
    return recorder.feeds


def questions(photos: Sequence[Photo], texts: Sequence[str], most: int) -> list[tuple[Photo, str]]:
    """Up to `most` pairs; every picture and every text comes once before one comes again."""
    pairs = min(most, max(len(photos), len(texts)))
    return [(photos[i % len(photos)], texts[i % len(texts)]) for i in range(pairs)]
