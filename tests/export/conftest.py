"""Exports that several claims look at, made once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest
from support.film import contract, write_checkpoint
from support.film_log import write_log

from edgevlm_export import exporter
from edgevlm_export.exporter import export
from edgevlm_export.report import ExportReport
from edgevlm_export.stage_graph import Stage
from edgevlm_export.trace import trace


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


_TRACED: dict[str, bytes] = {}


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For claims about what comes after tracing: a stage of known ports and weights is not traced a second time."""

    def remembered(stage: Stage) -> onnx.ModelProto:
        digest = hashlib.sha256(f"{stage.name} {stage.inputs} {stage.outputs}".encode())
        for name, value in sorted(stage.module.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        if digest.hexdigest() not in _TRACED:
            _TRACED[digest.hexdigest()] = trace(stage).SerializeToString()
        return onnx.load_model_from_string(_TRACED[digest.hexdigest()])

    monkeypatch.setattr(exporter, "trace", remembered)
