"""Negative controls: wrong inputs and broken features MUST change the answer, else the comparison proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.data.base import Episode
from edgevlm.engines import Arrays, Hook
from edgevlm.errors import FidelityError
from edgevlm.manifest.contract import Contract, Observation, Stamped

FACTOR = 5.0  # a control must move the actions at least this many times as far as the bundle is from its judge
SHUFFLE_SEED = 0

Twist = Callable[[Episode, Sequence[Episode]], Iterator[Observation] | None]


@dataclass(frozen=True)
class ControlFigures:
    """Mean movement and mean error over all steps and columns, in the model's own (normalized) units."""

    control: str
    moved: float
    error: float
    factor: float
    needed: float

    @property
    def passed(self) -> bool:
        """Whether the control moved the actions by far more than the error."""
        return self.moved > 0.0 and self.factor >= self.needed


def control_figures(control: str, moved: NDArray[np.float64], error: NDArray[np.float64]) -> ControlFigures:
    """From normalized movements and errors of the same steps; an error of 0 counts as the smallest float32 step."""
    mean, floor = float(moved.mean()), float(np.finfo(np.float32).eps)
    return ControlFigures(control, mean, float(error.mean()), mean / max(float(error.mean()), floor), FACTOR)


def check_controls(controls: Sequence[ControlFigures], what: str) -> None:
    """Raises FidelityError where one did not move `what`, such as "the logits", far enough."""
    for control in controls:
        if not control.passed:
            raise FidelityError(
                f"negative control {control.control!r}: expected it to move {what} at least {control.needed:g} "
                f"times the bundle's error {control.error:.3g}, it moved them {control.moved:.3g} "
                f"({control.factor:.2f} times); the model ignores this input or the precision lost it"
            )


def other_picture(episode: Episode, episodes: Sequence[Episode]) -> Iterator[Observation] | None:
    """This episode's stamps, state and words with the pictures of another one; None if there is no other."""
    other = _other(episode, episodes)
    if other is None:
        return None
    pictures = [observation.frames for observation in other.observations()]
    endless = chain(pictures, repeat(pictures[-1]))
    return (
        Observation(
            {name: Stamped(wrong[name].value, frame.stamp_ns) for name, frame in observation.frames.items()},
            observation.state,
            observation.instruction,
        )
        for observation, wrong in zip(episode.observations(), endless, strict=False)
    )


def other_instruction(episode: Episode, episodes: Sequence[Episode]) -> Iterator[Observation] | None:
    """This episode with another one's words; None if all episodes were told the same."""
    others = [one.instruction for one in _rotated(episode, episodes) if one.instruction != episode.instruction]
    if not others:
        return None
    return (Observation(one.frames, one.state, others[0]) for one in episode.observations())


def _other(episode: Episode, episodes: Sequence[Episode]) -> Episode | None:
    others = [one for one in _rotated(episode, episodes) if one.index != episode.index]
    different = [one for one in others if one.instruction != episode.instruction]
    return next(iter([*different, *others]), None)


def _rotated(episode: Episode, episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes that come after this one, then those before: not everyone gets the same other."""
    return sorted(episodes, key=lambda one: (one.index <= episode.index, one.index))


# Name in the record -> how an episode is twisted.
TWISTS: Mapping[str, Twist] = {"other-picture": other_picture, "other-instruction": other_instruction}


def twists(contract: Contract) -> Mapping[str, Twist]:
    """Those that must move the actions of a policy with this contract: words only where it takes any."""
    return {name: twist for name, twist in TWISTS.items() if contract.instruction or twist is not other_instruction}


class ShuffledFeatures(Hook):
    """The feature maps of `stages` have their places in the picture shuffled, always in the same way."""

    def __init__(self, stages: Collection[str]) -> None:
        self._stages = stages

    def after(self, stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        """The outputs, shuffled."""
        return {name: _shuffled(value) for name, value in outputs.items()} if stage in self._stages else outputs


def _shuffled(value: NDArray[Any]) -> NDArray[Any]:
    """A map (1, C, h, w) has its places permuted, a row of tokens (1, T, H) its tokens."""
    random = np.random.default_rng(SHUFFLE_SEED)
    if value.ndim == 3:
        return np.ascontiguousarray(value[:, random.permutation(value.shape[1])])
    order = random.permutation(int(np.prod(value.shape[2:])))
    return np.ascontiguousarray(value.reshape(*value.shape[:2], -1)[..., order].reshape(value.shape))
