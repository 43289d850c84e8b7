"""An fp32 bundle runs over samples of data: ranges of every activation that becomes int8, or the inputs of its stages.

The model is opened as the runtime opens it, and gets its samples as a user gives them: the inputs of each stage are
what it will have on the robot. One thread: the same table every time on one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from edgevlm.bundle import Bundle
from edgevlm.engines import EngineFactory, hooked
from edgevlm.errors import CalibrationError
from edgevlm.options import RuntimeOptions
from edgevlm_calibration.hooks import Feeds, Observer, Recorder
from edgevlm_calibration.observers import OBSERVERS, HistogramObserver
from edgevlm_calibration.progress import Progress, silent
from edgevlm_calibration.table import Table, TensorRange

OBSERVER = "minmax"
OPTIONS = RuntimeOptions(engine="ort", intra_threads=1, spinning=False)


class Hashed(Protocol):
    """Data of any task."""

    @property
    def sha256(self) -> str: ...


Model = TypeVar("Model")
Opened = TypeVar("Opened", covariant=True)
Data = TypeVar("Data", bound=Hashed)
CalibrationSample = Any  # a step of an episode, a picture, a text, or both: what a run's `play` takes


class OpenModel(Protocol[Opened]):
    """A bundle as a model, by its class."""

    def __call__(
        self, bundle: Bundle, options: RuntimeOptions, *, engines: EngineFactory
    ) -> AbstractContextManager[Opened]: ...


@dataclass(frozen=True, kw_only=True)
class CalibrationRun(Generic[Model, Data]):
    """How the models of one task run over its data.

    Attributes:
        open: the model's class.
        samples: what of the calibration part the model gets, in turn; at most so many where a number is given.
        play: runs the model over samples, and yields after each.
        origin: what a table says of the data: its split, and how a recording was read.
    """

    open: OpenModel[Model]
    samples: Callable[[Data, int | None], Sequence[CalibrationSample]]
    play: Callable[[Model, Sequence[CalibrationSample]], Iterator[object]]
    origin: Callable[[Data], dict[str, Any]]


def each(show: Callable[[Model, Any], object]) -> Callable[[Model, Sequence[Any]], Iterator[object]]:
    """A `play` that shows the samples one by one."""
    return lambda model, samples: (show(model, sample) for sample in samples)


def calibrate_on(
    bundle: Bundle,
    data: Data,
    run: CalibrationRun[Model, Data],
    *,
    samples: int | None = None,
    observer: str = OBSERVER,
    progress: Progress = silent,
) -> Table:
    """A table for an fp32 bundle; `observer` is a name of OBSERVERS.

    Raises:
        CalibrationError: the bundle is not fp32, there are too few samples, or a tensor is not finite on one.
    """
    if bundle.manifest.precision != "fp32":
        raise CalibrationError(
            f"{bundle.root}: expected an fp32 bundle, got {bundle.manifest.precision}; "
            "make one with: edgevlm export CHECKPOINT -o BUNDLE --precision fp32"
        )
    chosen, hook, done = run.samples(data, samples), Observer(), 0
    with run.open(bundle, OPTIONS, engines=hook.open) as model:
        for done, _ in enumerate(run.play(model, chosen), 1):
            progress("calibrate", done, len(chosen))
    return Table(
        bundle_sha256=bundle.sha256,
        log_sha256=data.sha256,
        observer=observer,
        requested=samples or len(chosen),
        samples=done,
        stage_runs=hook.runs,
        stages={
            stage: {name: _range(OBSERVERS[observer](item), item) for name, item in tensors.items()}
            for stage, tensors in hook.ranges.items()
        },
        **run.origin(data),
    )


def record(bundle: Bundle, data: Data, run: CalibrationRun[Model, Data], most: int) -> Feeds:
    """The inputs of each stage over at most so many samples."""
    hook = Recorder(bundle)
    with run.open(bundle, OPTIONS, engines=hooked(hook)) as model:
        for _ in run.play(model, run.samples(data, most)):
            pass
    return hook.feeds


def _range(threshold: float, observed: HistogramObserver) -> TensorRange:
    return TensorRange(
        threshold=float(np.float32(threshold)), minimum=float(observed.minimum), maximum=float(observed.maximum)
    )
