"""What a kind of recordings offers to whoever reads one, however it lies on disk: episodes, or events in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.contract import Contract, Observation, Stamped
from edgevlm.rosmsg.state import Stamps


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
    stamps: Stamps = "header"

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """All of them, in the order of the recording."""
        return tuple(sorted((*self.calibration, *self.held_out), key=lambda episode: episode.index))


@dataclass(frozen=True)
class FrameEvent:
    """A frame of a camera."""

    log_ns: int
    camera: str
    frame: Stamped[NDArray[np.uint8]]


@dataclass(frozen=True)
class StateEvent:
    """Every field of the state, stamped with the oldest of them."""

    log_ns: int
    state: Stamped[NDArray[np.float32]]


@dataclass(frozen=True)
class InstructionEvent:
    """An instruction; None: messages were lost here, so what is in force is not known any more."""

    log_ns: int
    text: str | None


Event = FrameEvent | StateEvent | InstructionEvent


class EventStream(Protocol):
    """The events of a recording by log time, oldest first, over which one can go again and again.

    Attributes:
        warnings: what was left out; complete after the events were gone through once.
        stamps_are_time: header stamps are of another clock than log times (a simulation's), so they are the data time.
        first_ns, last_ns: log times of the first and the last message of the contract's topics.
    """

    first_ns: int
    last_ns: int
    stamps_are_time: bool

    @property
    def warnings(self) -> tuple[str, ...]: ...

    def __len__(self) -> int:
        """How many messages there are; some of them are no event."""

    def __iter__(self) -> Iterator[Event]: ...


@dataclass(frozen=True)
class ReadOptions:
    """How a recording is read: a file that maps its topics to the contract, and what its stamps are."""

    topics: Path | None = None
    stamps: Stamps = "header"


class DataReader(Protocol):
    """A kind of recordings: a row of `edgevlm.data.readers`."""

    def detect(self, path: Path) -> bool:
        """Whether what lies at the path is of this kind; cheap, and never raises."""

    def episodes(self, path: Path, contract: Contract, options: ReadOptions) -> Data:
        """Observations by episode, all held out: for export, calibrate and verify. Raises LogError, ContractError."""

    def events(self, path: Path, contract: Contract, options: ReadOptions) -> EventStream:
        """What happened, nothing known before its time: for replay. Raises LogError, ContractError."""
