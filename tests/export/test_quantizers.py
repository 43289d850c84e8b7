"""A precision is one row: what is registered there is exported with, measured and proven like those that ship."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgevlm.bundle import open_bundle
from edgevlm.manifest.schema import Precision
from edgevlm_calibration.table import Table
from edgevlm_export.quantization import QUANTIZERS
from edgevlm_export.quantization.base import Quantizer, StageArtifact, single_file
from edgevlm_export.report import ExportReport
from edgevlm_export.stage_graph import Stage

Traced = Callable[..., ExportReport]
Weights = NDArray[np.float32]


def bfloat16(values: Weights) -> Weights:
    """The nearest numbers that bfloat16 has."""
    return ((values.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)


def rounded(model: onnx.ModelProto, to: Callable[[Weights], Weights]) -> onnx.ModelProto:
    """A copy with other numbers in its matrices."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for item in matrices(result):
        item.CopyFrom(numpy_helper.from_array(to(numpy_helper.to_array(item)), item.name))
    return result


def matrices(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [item for item in model.graph.initializer if len(item.dims) > 1 and item.data_type == item.FLOAT]


class Bfloat16Weights(Quantizer):
    """Half the bits of each weight, in a file of fp32."""

    precision = "fp16"

    def quantize(self, stage: Stage, model: onnx.ModelProto, table: Table | None = None) -> StageArtifact:
        return single_file(stage.name, rounded(model, bfloat16), self.precision)


class WeightsOnly(Quantizer):
    """Weights of so many bits with one scale a matrix: measured on recorded inputs, without a table of ranges."""

    precision = "int8"
    measured = True

    def __init__(self, bits: int) -> None:
        self._levels = 2 ** (bits - 1) - 1

    def quantize(self, stage: Stage, model: onnx.ModelProto, table: Table | None) -> StageArtifact:
        assert table is None
        return single_file(stage.name, rounded(model, self._round), self.precision)

    def _round(self, values: Weights) -> Weights:
        scale = np.float32(max(np.abs(values).max(), 1e-9) / self._levels)
        nearest: Weights = np.rint(values / scale) * scale
        return nearest


def exported(path: Path) -> dict[str, Weights]:
    """The matrices of a bundle."""
    bundle = open_bundle(path)
    graphs = {name: onnx.load(bundle.path(spec.forms["cpu"])) for name, spec in bundle.manifest.stages.items()}
    return {
        f"{name}/{item.name}": numpy_helper.to_array(item) for name, graph in graphs.items() for item in matrices(graph)
    }


def test_every_precision_of_a_manifest_has_a_row() -> None:
    assert set(QUANTIZERS) == set(get_args(Precision))
    assert all(row.precision == precision for precision, row in QUANTIZERS.items())


def test_a_row_is_all_that_a_new_quantizer_takes(
    checkpoint: Path, fp32: Any, traced: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(QUANTIZERS, "fp16", Bfloat16Weights())
    report = traced(checkpoint, tmp_path / "bundle", precision="fp16")
    assert {stage.precision for stage in report.stages} == {"fp16"} and report.samples == 0
    assert report.fidelity["controls"] and all(control["passed"] for control in report.fidelity["controls"])
    few, many = exported(tmp_path / "bundle"), exported(fp32[0])
    assert few.keys() == many.keys() and any(not np.array_equal(few[name], many[name]) for name in many)
    for name in many:
        assert np.array_equal(few[name], bfloat16(many[name])) and not np.any(few[name].view(np.uint32) & 0xFFFF)


@pytest.mark.parametrize(("bits", "precision"), [(8, "int8"), (2, "fp32")])
def test_a_quantizer_may_be_measured_without_a_table(
    bits: int, precision: str, hub_source: Path, traced: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(QUANTIZERS, "int8", WeightsOnly(bits))
    report = traced(hub_source, tmp_path / "bundle", precision="int8")
    assert {stage.precision for stage in report.stages} == {precision}
    assert open_bundle(tmp_path / "bundle").manifest.calibration is None
    for stage in report.stages:
        assert bool(stage.reason) == (precision == "fp32")
        assert precision == "int8" or re.match("int8 would change .* too much: worst cosine", stage.reason)
