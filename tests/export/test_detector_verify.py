"""Verification of detectors as a verb of its own, and what an export of them takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import owls, tiny
from typer.testing import CliRunner

from edgevlm.bundle import open_bundle
from edgevlm.cli.app import app
from edgevlm.errors import CalibrationError, FidelityError, TaskError
from edgevlm_export.exporter import export
from edgevlm_export.fidelity.verify import verify
from edgevlm_export.report import ExportReport

Exported = tuple[Path, ExportReport]


def test_verify_gives_the_figures_of_the_export_again(owl_fp32: Exported, owl_source: Path, tmp_path: Path) -> None:
    arguments = ["verify", str(owl_fp32[0]), "--against", str(owl_source), "--json", str(tmp_path / "f.json")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    again = json.loads((tmp_path / "f.json").read_text())["fidelity"]
    assert again["detection"] == owl_fp32[1].fidelity["detection"]
    assert "the whole model against PyTorch" in done.output and "box" in done.output


def test_a_bundle_can_be_judged_by_another_one(owl_fp32: Exported, photos: Path) -> None:
    figures = verify(owl_fp32[0], against=owl_fp32[0], data=photos)
    assert figures["against"]["kind"] == "bundle" and figures["data"]["kind"] == "pictures"
    assert figures["detection"][0]["logit_max_abs_error"] < 1e-6 and not figures["stages"]


def test_a_bundle_that_prepares_pictures_otherwise_is_refused(
    owl_fp32: Exported, owl_source: Path, tmp_path: Path
) -> None:
    shutil.copytree(owl_fp32[0], tmp_path / "spoilt")
    tiny.rewrite(tmp_path / "spoilt", lambda data: data["preprocess"]["image"][-1].update(mean=[0.3, 0.3, 0.3]))
    with pytest.raises(FidelityError, match="fp32 logits and boxes within"):
        verify(tmp_path / "spoilt", against=owl_source)


def test_objectness_is_judged(owl_bundle: Callable[[str, str], Exported], tmp_path: Path) -> None:
    def louder(model: Any) -> None:
        model.objectness_head.dense2.weight.data.mul_(1.01)

    other = owls.owlv2(tmp_path / "other", edit=louder)
    with pytest.raises(FidelityError, match=r"fp32 logits and boxes within .*objectness, too"):
        verify(owl_bundle("owlv2", "fp32")[0], against=other)


def test_regions_with_and_without_objectness_are_not_compared(owl_bundle: Callable[[str, str], Exported]) -> None:
    with pytest.raises(FidelityError, match=r"64 regions .* with objectness, got .* with no objectness"):
        verify(owl_bundle("owlvit", "fp32")[0], against=owl_bundle("owlv2", "fp32")[0])


def test_a_policy_is_no_judge_of_a_detector(owl_fp32: Exported, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FidelityError, match="expected a detector's checkpoint, got a policy"):
        verify(owl_fp32[0], against=checkpoint)
    with pytest.raises(TaskError):
        verify(owl_fp32[0], against=tiny.mono(tmp_path / "mono"))


@pytest.mark.slow
def test_fp16_halves_the_weights_and_stays_near(
    owl_source: Path, owl_fp32: Exported, traced: Callable[..., ExportReport], tmp_path: Path
) -> None:
    report = traced(owl_source, tmp_path / "bundle", precision="fp16")
    full = {stage.stage: stage.bytes["cpu"] for stage in owl_fp32[1].stages}
    assert all(stage.bytes["cpu"] < 0.75 * full[stage.stage] for stage in report.stages)
    (row,) = report.fidelity["detection"]
    assert 1e-6 < row["logit_relative_error"] < 0.02 and row["box_iou_mean"] > 0.98


@pytest.mark.slow
def test_two_exports_have_one_hash(
    owl_checkpoint: Callable[[str], Path], owl_bundle: Callable[[str, str], Exported], tmp_path: Path
) -> None:
    _, report = owl_bundle("owlv2", "fp32")
    again = export(owl_checkpoint("owlv2"), tmp_path / "bundle")
    assert again.bundle_sha256 == report.bundle_sha256 == open_bundle(tmp_path / "bundle").sha256


def test_a_recording_calibrates_no_detector(owl_source: Path, tmp_path: Path) -> None:
    (tmp_path / "drive.mcap").write_bytes(b"")
    with pytest.raises(CalibrationError, match="found a file"):
        export(owl_source, tmp_path / "bundle", precision="int8", calibration=tmp_path / "drive.mcap")
    with pytest.raises(CalibrationError, match="--topics and --stamps belong to a robot"):
        export(owl_source, tmp_path / "bundle", topics=tmp_path / "topics.yaml")
    assert not (tmp_path / "bundle").exists()
