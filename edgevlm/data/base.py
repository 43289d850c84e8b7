"""What calibration and verification ask of a source of observations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from edgevlm.manifest.contract import Observation


@dataclass(frozen=True)
class Episode:
    """One command carried out; `observations` starts a fresh iterator at each call, oldest first."""

    index: int
    instruction: str
    start_ns: int
    length: int
    observations: Callable[[], Iterator[Observation]]


@dataclass(frozen=True)
class Data:
    """Episodes, split once into those that ranges come from and those that judge them.

    Attributes:
        sha256: of the recording; empty for made-up episodes.
        warnings: what was left out when reading.
        stamps: what the recording was matched by, the headers' stamps or its log times.
    """

    kind: Literal["log", "synthetic"]
    sha256: str
    calibration: tuple[Episode, ...]
    held_out: tuple[Episode, ...]
    warnings: tuple[str, ...] = ()
    stamps: Literal["header", "log"] = "header"

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """All of them, in the order of the recording."""
        return tuple(sorted((*self.calibration, *self.held_out), key=lambda episode: episode.index))
