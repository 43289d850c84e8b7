"""How a policy runs over episodes: every frame up to the last chosen step, an action at each chosen one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any, NamedTuple

from edgevlm.data.base import Data, Episode
from edgevlm.errors import CalibrationError
from edgevlm.manifest.contract import ActionChunk
from edgevlm.tasks import Policy
from edgevlm_calibration.runner import CalibrationRun
from edgevlm_calibration.sampling import evenly_spaced
from edgevlm_calibration.table import EpisodeRef, Split

MINIMUM_SAMPLES = 16
SAMPLES = 256


class Step(NamedTuple):
    """One observation of an episode."""

    episode: Episode
    place: int


def steps(episodes: Sequence[Episode], most: int) -> list[Step]:
    """At most so many, evenly over the episodes."""
    chosen = evenly_spaced([episode.length for episode in episodes], most)
    return [Step(episode, place) for episode, places in zip(episodes, chosen, strict=True) for place in places]


def play(policy: Policy, samples: Sequence[Step]) -> Iterator[ActionChunk]:
    """The action at each step, in a session for each episode."""
    for _, group in groupby(samples, key=lambda step: step.episode.index):
        chosen = list(group)
        places, session = {step.place for step in chosen}, policy.session()
        for place, observation in enumerate(islice(chosen[0].episode.observations(), max(places) + 1)):
            if place in places:
                yield session.act(observation)
                continue
            for camera, frame in observation.frames.items():
                session.push(camera, frame)


def check_samples(episodes: tuple[Episode, ...], samples: int) -> None:
    """Refuse what cannot become a table, before any work is done.

    Raises:
        CalibrationError: fewer than MINIMUM_SAMPLES steps, saying how many there are.
    """
    count = sum(episode.length for episode in episodes)
    if min(count, samples) < MINIMUM_SAMPLES:
        raise CalibrationError(
            f"calibration: expected at least {MINIMUM_SAMPLES} steps, found {count} in {len(episodes)} calibration "
            f"episode(s) and {samples} asked for; record more episodes or raise --samples"
        )


def _steps(data: Data, most: int | None) -> list[Step]:
    most = SAMPLES if most is None else most
    check_samples(data.calibration, most)
    return steps(data.calibration, most)


def _probe_steps(data: Data, most: int | None) -> list[Step]:
    """Beside a table that was made before there is no recording at hand, only made-up episodes."""
    return steps(data.calibration or data.held_out, most or MINIMUM_SAMPLES)


def _origin(data: Data) -> dict[str, Any]:
    parts = (data.calibration, data.held_out)
    calibration, held_out = (tuple(map(_ref, episodes)) for episodes in parts)
    return {"stamps": data.stamps, "split": Split(calibration=calibration, held_out=held_out)}


def _ref(one: Episode) -> EpisodeRef:
    return EpisodeRef(index=one.index, instruction=one.instruction, start_ns=one.start_ns, observations=one.length)


POLICY = CalibrationRun(open=Policy, samples=_steps, play=play, origin=_origin)
POLICY_PROBE = replace(POLICY, samples=_probe_steps)
