"""An fp32 bundle and a recording -> the ranges of every activation that becomes int8.

The bundle is driven by the runtime's own policy: its preprocess, window and graph make the inputs of each stage, so
that ranges belong to what the robot will really see. One thread: the same table every time on one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgevlm.bundle import Bundle, open_bundle
from edgevlm.data.base import Data, Episode
from edgevlm.engines import Engine, open_engine
from edgevlm.errors import CalibrationError, EngineError, require
from edgevlm.graph import all_finite
from edgevlm.options import RuntimeOptions
from edgevlm.rosmsg.state import Stamps
from edgevlm.tasks.policy import Policy
from edgevlm_calibration.observers import OBSERVERS, HistogramObserver
from edgevlm_calibration.onnx_models import open_session
from edgevlm_calibration.progress import Progress, silent
from edgevlm_calibration.quantizable_nodes import quantizable_nodes, tensors
from edgevlm_calibration.recordings import open_log
from edgevlm_calibration.sampling import evenly_spaced
from edgevlm_calibration.table import EpisodeRef, Split, Table, TensorRange

MINIMUM_SAMPLES = 16
OBSERVER = "minmax"
OPTIONS = RuntimeOptions(engine="ort", intra_threads=1, spinning=False)

Seen = dict[str, dict[str, HistogramObserver]]  # stage -> tensor -> what was seen


def calibrate(
    bundle: Path,
    data: Path,
    *,
    topics: Path | None = None,
    stamps: Stamps = "header",
    samples: int = 256,
    progress: Progress = silent,
) -> Table:
    """A table for `bundle` from at most `samples` steps of the recording's calibration episodes.

    Raises:
        BundleError: the bundle does not open.
        LogError: the recording cannot be read, or lacks topics that the contract needs.
        ContractError: the recording does not fit the contract.
        CalibrationError: the bundle is not fp32, or there are too few steps.
    """
    opened = open_bundle(bundle)
    log = open_log(data, opened.manifest.policy().contract, topics, stamps)
    return calibrate_on(opened, log, samples=samples, progress=progress)


def calibrate_on(
    bundle: Bundle, data: Data, *, samples: int, observer: str = OBSERVER, progress: Progress = silent
) -> Table:
    """As `calibrate`, on episodes at hand; `observer` is a name of OBSERVERS."""
    seen, runs, used = observe(bundle, data.calibration, samples=samples, progress=progress)
    choose = OBSERVERS[observer]
    return Table(
        bundle_sha256=bundle.sha256,
        log_sha256=data.sha256,
        stamps=data.stamps,
        observer=observer,
        requested=samples,
        samples=used,
        stage_runs=runs,
        stages=table_stages(seen, choose),
        split=Split(calibration=_refs(data.calibration), held_out=_refs(data.held_out)),
    )


def observe(
    bundle: Bundle, episodes: tuple[Episode, ...], *, samples: int, progress: Progress = silent
) -> tuple[Seen, dict[str, int], int]:
    """(what each tensor was, engine runs of each stage, steps) over `episodes`.

    Raises:
        CalibrationError: the bundle is not fp32, or there are too few steps.
    """
    if bundle.manifest.precision != "fp32":
        raise CalibrationError(
            f"{bundle.root}: expected an fp32 bundle, got {bundle.manifest.precision}; "
            "make one with: edgevlm export CHECKPOINT -o BUNDLE --precision fp32"
        )
    check_samples(episodes, samples)
    steps = evenly_spaced([episode.length for episode in episodes], samples)
    total = sum(map(len, steps))
    seen: Seen = {}

    def factory(opened: Bundle, stage: str, options: RuntimeOptions) -> Engine:
        return ObservingEngine(opened, stage, options, seen.setdefault(stage, {}))

    runs: dict[str, int] = {}
    done = 0
    with Policy(bundle, OPTIONS, engines=factory) as policy:
        for episode, wanted in zip(episodes, steps, strict=True):
            session = policy.session()
            for _ in play(session, episode, wanted):
                done += 1
                progress("calibrate", done, total)
            for stage, count in session.stage_runs.items():
                runs[stage] = runs.get(stage, 0) + count
    return seen, runs, done


def record_steps(bundle: Bundle, episodes: tuple[Episode, ...], most: int) -> dict[str, list[dict[str, NDArray[Any]]]]:
    """stage -> what it was given in at most so many steps of the episodes."""
    feeds: dict[str, list[dict[str, NDArray[Any]]]] = {}

    def factory(opened: Bundle, stage: str, options: RuntimeOptions) -> Engine:
        return Recording(open_engine(opened, stage, options), feeds.setdefault(stage, []))

    with Policy(bundle, OPTIONS, engines=factory) as policy:
        for episode, wanted in zip(episodes, evenly_spaced([one.length for one in episodes], most), strict=True):
            for _ in play(policy.session(), episode, wanted):
                pass
    return feeds


def check_samples(episodes: tuple[Episode, ...], samples: int) -> None:
    """Refuse what cannot become a table, before any work is done.

    Raises:
        CalibrationError: fewer than MINIMUM_SAMPLES steps, saying how many there are.
    """
    found = sum(episode.length for episode in episodes)
    if min(found, samples) < MINIMUM_SAMPLES:
        raise CalibrationError(
            f"calibration: expected at least {MINIMUM_SAMPLES} steps, found {found} in {len(episodes)} calibration "
            f"episode(s) and {samples} asked for; record more episodes or raise --samples"
        )


def play(session: Any, episode: Episode, wanted: Iterable[int]) -> Iterable[tuple[int, Any]]:
    """Show `session` every frame of the episode up to the last wanted step; yield (step, chunk) at the wanted ones."""
    chosen = set(wanted)
    last = max(chosen, default=-1)
    for step, observation in enumerate(episode.observations()):
        if step > last:
            return
        if step in chosen:
            yield step, session.act(observation)
        else:
            for camera, frame in observation.frames.items():
                session.push(camera, frame)


class ObservingEngine:
    """A stage in ONNX Runtime whose every int8-bound tensor is counted while it runs."""

    def __init__(self, bundle: Bundle, stage: str, options: RuntimeOptions, seen: dict[str, HistogramObserver]) -> None:
        ort = require("onnxruntime", extra="cpu")
        spec = bundle.manifest.stages[stage]
        model = onnx.load(bundle.path(spec.forms["cpu"]))
        self.inputs = tuple(port.name for port in spec.inputs)
        self.outputs = tuple(port.name for port in spec.outputs)
        wanted = tensors(quantizable_nodes(model))
        self._entering = [name for name in wanted if name in self.inputs]
        self._inner = [name for name in wanted if name not in (*self.inputs, *self.outputs)]
        self._leaving = [name for name in wanted if name in self.outputs]
        self._seen = seen
        for name in wanted:
            seen[name] = HistogramObserver()
        for name in self._inner:
            model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        chosen = ort.SessionOptions()
        chosen.log_severity_level = 3
        chosen.intra_op_num_threads = options.intra_threads
        self._session = open_session(model, chosen)
        self._where = f"stage {stage!r} of {bundle.root}"

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        names = [*self.outputs, *self._inner]
        try:
            results = dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{self._where}: {error}") from error
        for name in self._entering:
            self._observe(name, inputs[name])
        for name in (*self._inner, *self._leaving):
            self._observe(name, results.pop(name) if name in self._inner else results[name])
        return results

    def _observe(self, name: str, values: NDArray[Any]) -> None:
        if not all_finite((values,)):
            raise CalibrationError(
                f"{self._where}: expected finite numbers in {name!r} on the data of the calibration, got NaN or "
                "infinity, which int8 would hide; export with --precision fp32, or from a sound checkpoint"
            )
        self._seen[name].add(values)

    def close(self) -> None:
        self._session = None


class Recording:
    """An engine that keeps what it was given, itself or (`copies`) as it was then."""

    def __init__(self, inner: Engine, feeds: list[dict[str, NDArray[Any]]], copies: bool = False) -> None:
        self._inner, self._feeds, self._copies = inner, feeds, copies
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self._feeds.append({name: np.array(value) if self._copies else value for name, value in inputs.items()})
        return self._inner.run(inputs)

    def close(self) -> None:
        self._inner.close()


def table_stages(seen: Seen, choose: Callable[[HistogramObserver], float]) -> dict[str, dict[str, TensorRange]]:
    """What a table says of every stage and tensor."""
    return {
        stage: {name: _range(choose(item), item) for name, item in tensors.items()} for stage, tensors in seen.items()
    }


def _range(threshold: float, seen: HistogramObserver) -> TensorRange:
    return TensorRange(threshold=float(np.float32(threshold)), minimum=float(seen.minimum), maximum=float(seen.maximum))


def _refs(episodes: tuple[Episode, ...]) -> tuple[EpisodeRef, ...]:
    return tuple(
        EpisodeRef(index=one.index, instruction=one.instruction, start_ns=one.start_ns, observations=one.length)
        for one in episodes
    )
