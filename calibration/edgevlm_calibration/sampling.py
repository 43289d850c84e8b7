"""Which episodes calibrate, which judge, and which of their steps are looked at. No chance is involved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from edgevlm.errors import CalibrationError

HELD_OUT_PART = 3  # one in three episodes of an instruction judges, at least one


class HasInstruction(Protocol):
    """Anything that can be split."""

    @property
    def instruction(self) -> str: ...


E = TypeVar("E", bound=HasInstruction)


def split(episodes: Sequence[E]) -> tuple[tuple[E, ...], tuple[E, ...]]:
    """(calibration, held out), whole episodes: of each instruction the last third, at least one, is held out.

    Instructions that were given once only are one group, so that a recording of 15 different commands splits too.

    Raises:
        CalibrationError: fewer than two episodes.
    """
    if len(episodes) < 2:
        raise CalibrationError(
            f"expected at least 2 episodes, one to calibrate on and one to judge, found {len(episodes)}; "
            "record more: an episode starts at each instruction message"
        )
    groups: dict[str, list[int]] = defaultdict(list)
    for i, episode in enumerate(episodes):
        groups[episode.instruction].append(i)
    single = [group[0] for group in groups.values() if len(group) == 1]
    several = [group for group in groups.values() if len(group) > 1]
    held: set[int] = set()
    for group in [*several, single]:
        if len(group) > 1:
            held.update(group[-max(1, len(group) // HELD_OUT_PART) :])
    return (
        tuple(episode for i, episode in enumerate(episodes) if i not in held),
        tuple(episode for i, episode in enumerate(episodes) if i in held),
    )


def evenly_spaced(lengths: Sequence[int], samples: int) -> tuple[tuple[int, ...], ...]:
    """For each episode the steps to look at: `samples` in all (or every step, if there are fewer), evenly apart."""
    total = sum(lengths)
    count = min(samples, total)
    chosen = np.unique(np.linspace(0, total - 1, count).round().astype(int)) if count else np.empty(0, int)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return tuple(
        tuple(int(step - start) for step in chosen if start <= step < start + length)
        for start, length in zip(starts, lengths, strict=False)
    )
