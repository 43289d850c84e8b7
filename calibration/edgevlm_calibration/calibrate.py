"""The verb: a policy's fp32 bundle and a recording of its robot -> a table."""

from __future__ import annotations

from pathlib import Path

from edgevlm.bundle import open_bundle
from edgevlm.manifest.schema import PolicyManifest
from edgevlm.rosmsg.state import Stamps
from edgevlm_calibration.policy import POLICY, SAMPLES
from edgevlm_calibration.progress import Progress, silent
from edgevlm_calibration.recordings import open_log
from edgevlm_calibration.runner import calibrate_on
from edgevlm_calibration.table import Table


def calibrate(
    bundle: Path,
    data: Path,
    *,
    topics: Path | None = None,
    stamps: Stamps = "header",
    samples: int = SAMPLES,
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
    log = open_log(data, opened.manifest.require(PolicyManifest).contract, topics, stamps)
    return calibrate_on(opened, log, POLICY, samples=samples, progress=progress)
