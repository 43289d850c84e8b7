"""Episodes of a recorded robot log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from edgevlm.bundle import file_sha256
from edgevlm.data import Episode as LoggedEpisode
from edgevlm.data import Recording, read_log
from edgevlm.data.base import Data, Episode
from edgevlm.manifest.contract import Contract, Observation
from edgevlm.rosmsg.state import Stamps
from edgevlm.rosmsg.topic_map import load_topics
from edgevlm_calibration.sampling import split

logger = logging.getLogger(__name__)


def open_log(path: Path, contract: Contract, topics: Path | None, stamps: Stamps = "header") -> Data:
    """The recording's episodes, split.

    Raises:
        LogError: it cannot be read, or lacks topics that the contract needs.
        ContractError: it does not fit the contract.
        CalibrationError: it has one episode only, which cannot be split.
    """
    data = open_whole_log(path, contract, topics, stamps)
    calibration, held_out = split(data.held_out)
    return replace(data, calibration=calibration, held_out=held_out)


def open_whole_log(path: Path, contract: Contract, topics: Path | None, stamps: Stamps = "header") -> Data:
    """Every episode of the recording as held out: nothing was calibrated on it. Raises LogError, ContractError.

    What had to be left out of a damaged recording is logged, and kept in `warnings`.
    """
    recording = read_log(path, contract, load_topics(topics) if topics is not None else None, stamps=stamps)
    for warning in recording.warnings:
        logger.warning("%s", warning)
    episodes = tuple(
        Episode(episode.index, episode.instruction, episode.start_ns, len(episode), _opener(recording, episode))
        for episode in recording.episodes
    )
    return Data("log", file_sha256(path), (), episodes, recording.warnings, stamps)


def _opener(recording: Recording, episode: LoggedEpisode) -> Callable[[], Iterator[Observation]]:
    return lambda: recording.observations(episode)
