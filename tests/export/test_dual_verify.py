"""Verification of retrievers as a verb of its own, and what an export of them takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny
from support.film import contract
from support.film_log import write_log
from typer.testing import CliRunner

from edgevlm.bundle import open_bundle
from edgevlm.cli.app import app
from edgevlm.data.pictures import make_up_pictures, open_pictures
from edgevlm.errors import CalibrationError, FidelityError, TaskError
from edgevlm_calibration.calibrate import calibrate
from edgevlm_export.exporter import export
from edgevlm_export.fidelity.verify import verify
from edgevlm_export.report import ExportReport

Exported = tuple[Path, ExportReport]


def test_verify_gives_the_figures_of_the_export_again(hub_fp32: Exported, hub_source: Path, tmp_path: Path) -> None:
    arguments = ["verify", str(hub_fp32[0]), "--against", str(hub_source), "--json", str(tmp_path / "f.json")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    again = json.loads((tmp_path / "f.json").read_text())["fidelity"]
    assert again["retrieval"] == hub_fp32[1].fidelity["retrieval"]
    assert "the whole model against PyTorch" in done.output


def test_a_bundle_can_be_judged_by_another_one(hub_fp32: Exported, photos: Path) -> None:
    figures = verify(hub_fp32[0], against=hub_fp32[0], data=photos)
    assert figures["against"]["kind"] == "bundle" and figures["data"]["kind"] == "pictures"
    assert figures["retrieval"][0]["logit_max_abs_error"] < 1e-6 and not figures["stages"]


def test_a_bundle_with_another_scale_is_refused(hub_fp32: Exported, hub_source: Path, tmp_path: Path) -> None:
    shutil.copytree(hub_fp32[0], tmp_path / "spoilt")
    tiny.rewrite(tmp_path / "spoilt", lambda data: data["driver"]["args"].update(scale=3.0))
    with pytest.raises(FidelityError, match="fp32 logits and embeddings within"):
        verify(tmp_path / "spoilt", against=hub_source)


def test_embeddings_of_another_width_are_not_compared(
    hub_fp32: Exported, pair_bundle: Callable[[str, str], Exported]
) -> None:
    with pytest.raises(FidelityError, match="logits and embeddings: expected those of the judge"):
        verify(hub_fp32[0], against=pair_bundle("blip_matching", "fp32")[0])


def test_a_policy_is_no_judge_of_a_retriever(hub_fp32: Exported, hub_source: Path, tmp_path: Path) -> None:
    policy = tiny.mono(tmp_path / "mono")
    with pytest.raises(TaskError):
        verify(hub_fp32[0], against=policy)
    with pytest.raises(FidelityError, match="expected a policy's checkpoint, got a retriever"):
        verify(policy, against=hub_source)


def test_a_recording_calibrates_no_retriever(hub_fp32: Exported, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.mcap", contract("front"), episodes=2, steps=3)
    with pytest.raises(TaskError, match="'policy'"):
        calibrate(hub_fp32[0], log)


def test_own_texts_judge_and_few_are_refused(
    hub_source: Path, traced: Callable[..., ExportReport], tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text(
        "\n".join(["one cat", "", "two dogs", "a red cup", "one cat", "a tree at night", "sky", "a spoon"])
    )
    report = traced(hub_source, tmp_path / "bundle", texts=texts)
    assert report.fidelity["data"]["held_out_texts"] == ["a red cup", "a spoon"]
    texts.write_text("one\ntwo\n")
    with pytest.raises(CalibrationError, match="at least 6 texts, one a line, found 2"):
        export(hub_source, tmp_path / "other", texts=texts)


@pytest.mark.slow
def test_fp16_halves_the_weights_and_stays_near(
    hub_source: Path, hub_fp32: Exported, traced: Callable[..., ExportReport], tmp_path: Path
) -> None:
    report = traced(hub_source, tmp_path / "bundle", precision="fp16")
    full = {stage.stage: stage.bytes["cpu"] for stage in hub_fp32[1].stages}
    assert all(stage.bytes["cpu"] < 0.75 * full[stage.stage] for stage in report.stages)
    assert 1e-6 < report.fidelity["retrieval"][0]["logit_relative_error"] < 0.02


@pytest.mark.slow
def test_two_exports_have_one_hash(
    hub_source: Path, hub_fp32: Exported, traced: Callable[..., ExportReport], tmp_path: Path
) -> None:
    again = export(hub_source, tmp_path / "bundle")
    assert again.bundle_sha256 == hub_fp32[1].bundle_sha256 == open_bundle(tmp_path / "bundle").sha256


def test_synthetic_pictures_are_the_same_every_time_and_say_what_they_are() -> None:
    first, again = make_up_pictures(), make_up_pictures()
    for one, other in zip(first.held_out, again.held_out, strict=True):
        assert (one.load() == other.load()).all() and one.name.startswith("made-up")
    assert first.kind == "synthetic" and not first.sha256


def test_a_folder_is_thinned_out_evenly_and_named_by_its_content(photos: Path) -> None:
    complete, few = open_pictures(photos), open_pictures(photos, limit=9)
    names = [photo.name for photo in (*few.calibration, *few.held_out)]
    assert len(names) == 9 and len(complete.calibration) + len(complete.held_out) == 28
    assert complete.sha256 != few.sha256 == open_pictures(photos, limit=9).sha256
    first_and_last: set[Any] = {
        min(path.name for path in photos.iterdir()),
        max(path.name for path in photos.iterdir()),
    }
    assert first_and_last <= set(names)
