"""Claims about verification as a verb of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.film import contract, write_checkpoint
from support.film_log import write_log

from edgevlm.bundle import MANIFEST, open_bundle, write_manifest
from edgevlm.errors import ContractError, FidelityError
from edgevlm_export.exporter import export
from edgevlm_export.fidelity.verify import verify
from edgevlm_export.report import ExportReport

Exported = tuple[Path, ExportReport]


def _spoil(source: Path, target: Path, stage_file: str) -> Path:
    """A well-formed bundle whose stage has other weights: a wrong export, not a damaged file."""
    shutil.copytree(source, target)
    path = target / "stages" / stage_file
    model = onnx.load(path)
    for item in model.graph.initializer:
        if item.data_type == onnx.TensorProto.FLOAT and len(item.dims) > 0:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * np.float32(1.1), item.name))
    onnx.save(model, path)
    manifest = open_bundle(source).manifest
    for stale in target.glob("manifest.*"):
        stale.unlink()
    write_manifest(target, lambda files: manifest.model_copy(update={"files": files}))
    return target


def test_verify_gives_the_figures_of_the_export_again(int8: Exported, checkpoint: Path, log: Path) -> None:
    again = verify(int8[0], against=checkpoint, data=log)
    assert again["pipeline"] == int8[1].fidelity["pipeline"]
    assert again["data"]["steps"] == int8[1].fidelity["data"]["steps"]


def test_int8_can_be_judged_by_the_fp32_bundle(int8: Exported, fp32: Exported, log: Path) -> None:
    figures = verify(int8[0], against=fp32[0], data=log)
    assert figures["against"] == {"kind": "bundle", "sha256": open_bundle(fp32[0]).sha256}
    for ours, theirs in zip(figures["pipeline"], int8[1].fidelity["pipeline"], strict=True):
        assert ours["mean"] == pytest.approx(theirs["mean"], rel=0.02)


def test_a_log_nothing_was_calibrated_on_is_used_in_full(int8: Exported, checkpoint: Path, tmp_path: Path) -> None:
    other = write_log(tmp_path / "other.mcap", contract("front", "wrist"), episodes=4, steps=6)
    figures = verify(int8[0], against=checkpoint, data=other)
    assert [episode["index"] for episode in figures["data"]["held_out_episodes"]] == [0, 1, 2, 3]


def test_a_bundle_with_wrong_weights_is_refused(fp32: Exported, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FidelityError, match="fp32 actions within"):
        verify(_spoil(fp32[0], tmp_path / "spoilt", "vision.onnx"), against=checkpoint)


def test_forms_that_differ_are_refused(int8: Exported, checkpoint: Path, log: Path, tmp_path: Path) -> None:
    with pytest.raises(FidelityError, match="bit-equal"):
        verify(_spoil(int8[0], tmp_path / "spoilt", "pool.cpu.onnx"), against=checkpoint, data=log)


@pytest.mark.usefixtures("traced_once")
def test_bundles_of_different_contracts_are_not_compared(fp32: Exported, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "one-camera", "front")
    export(other, tmp_path / "bundle")
    assert (tmp_path / "bundle" / MANIFEST).is_file()
    with pytest.raises(ContractError, match="compare bundles of one checkpoint"):
        verify(fp32[0], against=tmp_path / "bundle")


@pytest.mark.usefixtures("traced_once")
def test_cameras_with_trunks_of_their_own_are_stages_of_their_own(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "apart", "front", "wrist", shared_trunk=False)
    report = export(folder, tmp_path / "bundle")
    assert {"vision_front", "vision_wrist"} < {stage.stage for stage in report.stages}
    assert max(row["worst"] for row in report.fidelity["pipeline"]) < 1e-6
