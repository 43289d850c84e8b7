"""An fp32 bundle and a recording -> the ranges of every activation that becomes int8.

The bundle is driven by the runtime's own policy: its preprocess, window and graph make the inputs of each stage, so
that ranges belong to what the robot will really see. One thread: the same table every time on one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgevlm.bundle import Bundle, open_bundle
from edgevlm.data.base import Data, Episode
from edgevlm.engines import hooked
from edgevlm.errors import CalibrationError
from edgevlm.options import RuntimeOptions
from edgevlm.rosmsg.state import Stamps
from edgevlm.tasks.policy import Policy
from edgevlm_calibration.hooks import Feeds, Observer, Ranges, Recorder
from edgevlm_calibration.observers import OBSERVERS, HistogramObserver
from edgevlm_calibration.progress import Progress, silent
from edgevlm_calibration.recordings import open_log
from edgevlm_calibration.sampling import evenly_spaced
from edgevlm_calibration.table import EpisodeRef, Split, Table, TensorRange

MINIMUM_SAMPLES = 16
OBSERVER = "minmax"
OPTIONS = RuntimeOptions(engine="ort", intra_threads=1, spinning=False)


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
) -> tuple[Ranges, dict[str, int], int]:
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
    observer = Observer()
    runs: dict[str, int] = {}
    done = 0
    with Policy(bundle, OPTIONS, engines=observer.open) as policy:
        for episode, wanted in zip(episodes, steps, strict=True):
            session = policy.session()
            for _ in play(session, episode, wanted):
                done += 1
                progress("calibrate", done, total)
            for stage, count in session.stage_runs.items():
                runs[stage] = runs.get(stage, 0) + count
    return observer.ranges, runs, done


def record_steps(bundle: Bundle, episodes: tuple[Episode, ...], most: int) -> Feeds:
    """stage -> what it was given in at most so many steps of the episodes."""
    recorder = Recorder(bundle)
    with Policy(bundle, OPTIONS, engines=hooked(recorder)) as policy:
        for episode, wanted in zip(episodes, evenly_spaced([one.length for one in episodes], most), strict=True):
            for _ in play(policy.session(), episode, wanted):
                pass
    return recorder.feeds


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


def table_stages(seen: Ranges, choose: Callable[[HistogramObserver], float]) -> dict[str, dict[str, TensorRange]]:
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
