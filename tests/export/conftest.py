"""Exports that several claims look at, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.film import contract, write_checkpoint
from support.film_log import write_log

from edgevlm_export.exporter import export
from edgevlm_export.report import ExportReport


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), "front", "wrist")


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("log") / "log.mcap", contract("front", "wrist"))


@pytest.fixture(scope="session")
def int8(checkpoint: Path, log: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    output = tmp_path_factory.mktemp("int8") / "bundle"
    return output, export(checkpoint, output, precision="int8", calibration=log)


@pytest.fixture(scope="session")
def fp32(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    output = tmp_path_factory.mktemp("fp32") / "bundle"
    return output, export(checkpoint, output)
