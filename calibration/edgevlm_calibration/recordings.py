"""Episodes of a recorded robot log."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from edgevlm.data.base import Data, ReadOptions
from edgevlm.data.readers import reader
from edgevlm.manifest.contract import Contract
from edgevlm.rosmsg.state import Stamps
from edgevlm_calibration.sampling import split

logger = logging.getLogger(__name__)


def open_log(path: Path, contract: Contract, topics: Path | None, stamps: Stamps = "header") -> Data:
    """The recording's episodes, split.

    Raises:
        LogError: it cannot be read, or lacks topics that the contract needs.
        ContractError: it does not fit the contract.
        CalibrationError: it has one episode only, which cannot be split.
    """
    return split_data(open_held_out(path, contract, topics, stamps))


def open_held_out(path: Path, contract: Contract, topics: Path | None, stamps: Stamps = "header") -> Data:
    """Every episode of the recording as held out: nothing was calibrated on it. Raises LogError, ContractError.

    What had to be left out of a damaged recording is logged, and stands in `warnings`.
    """
    data = reader(path).episodes(path, contract, ReadOptions(topics, stamps))
    for warning in data.warnings:
        logger.warning("%s", warning)
    return data


def split_data(data: Data) -> Data:
    """Data whose episodes are all held out, as what calibrates and what judges. Raises CalibrationError: one only."""
    calibration, held_out = split(data.held_out)
    return replace(data, calibration=calibration, held_out=held_out)
