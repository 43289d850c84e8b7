"""Scorers in int8, judged on held-out features; verification as a verb; the data they take."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import pairs, tiny
from typer.testing import CliRunner

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.cli.app import app
from edgevlm.data.regions import make_up_regions, open_regions
from edgevlm.errors import CalibrationError, FidelityError
from edgevlm_export.exporter import export
from edgevlm_export.fidelity.scorer import COSINE_LIMIT
from edgevlm_export.fidelity.verify import verify
from edgevlm_export.report import ExportReport

Exported = tuple[Path, ExportReport]
Bundles = Callable[[str, str], Exported]
LIMITS = (1, 256, pairs.WIDTH)  # fewest and most regions, features of each


@pytest.mark.parametrize("name", ["visual_bert", pytest.param("visual_bert_reasoning", marks=pytest.mark.slow)])
def test_int8_keeps_its_stage_and_moves_with_its_inputs(name: str, pair_bundle: Bundles) -> None:
    _, report = pair_bundle(name, "int8")
    (stage,) = report.stages
    assert stage.precision == "int8" and stage.quantized_nodes > 15 and not stage.reason
    assert {row["form"] for row in report.fidelity["scoring"]} == {"cpu", "tensorrt"}
    for row in report.fidelity["scoring"]:
        assert row["logit_cosine_min"] > 0.99 and row["logit_centred_cosine"] > COSINE_LIMIT
    assert all(control["passed"] for control in report.fidelity["controls"])
    assert report.fidelity["forms_bit_equal"]["outputs"] >= 8


def test_int8_runs_is_smaller_and_near(pair_bundle: Bundles) -> None:
    complete, small = pair_bundle("visual_bert", "fp32"), pair_bundle("visual_bert", "int8")
    assert small[1].stages[0].bytes["cpu"] < 0.6 * complete[1].stages[0].bytes["cpu"]
    with edgevlm.load_scorer(complete[0]) as exact, edgevlm.load_scorer(small[0]) as quick:
        got, want = (one.score(pairs.regions(), "is it red?").scores for one in (quick, exact))
        assert 0 < np.abs(got - want).max() < 0.1


def test_features_that_calibrated_do_not_judge(pair_bundle: Bundles) -> None:
    root, report = pair_bundle("visual_bert", "int8")
    split = open_bundle(root).records()["calibration"]["split"]
    data = report.fidelity["data"]
    assert data["kind"] == "regions" and data["note"] == ""
    assert set(data["held_out_pictures"]) <= set(split["held_out"]) and len(split["calibration"]) == 8
    assert not set(split["held_out"]) & set(split["calibration"])


def test_verify_gives_the_figures_of_the_export_again(
    pair_bundle: Bundles, pair_data: Callable[[str], Path], tmp_path: Path
) -> None:
    root, report = pair_bundle("visual_bert", "fp32")
    arguments = ["verify", root, "--against", root.parent / "checkpoint", "--json", tmp_path / "f.json"]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    again = json.loads((tmp_path / "f.json").read_text())["fidelity"]
    assert again["scoring"] == report.fidelity["scoring"]
    assert "the whole model against PyTorch" in done.output
    figures = verify(root, against=root, data=pair_data("visual_bert"))
    assert figures["against"]["kind"] == "bundle" and figures["data"]["kind"] == "regions"


def test_a_bundle_of_other_weights_or_labels_is_refused(pair_bundle: Bundles, tmp_path: Path) -> None:
    root, _ = pair_bundle("visual_bert", "fp32")
    other = pairs.visual_bert(tmp_path / "other", seed=5)
    with pytest.raises(FidelityError, match="expected fp32 logits within"):
        verify(root, against=other)
    with pytest.raises(FidelityError, match="expected a scorer's checkpoint, got a retriever"):
        verify(root, against=pair_bundle("blip_matching", "fp32")[0].parent / "checkpoint")


def test_labels_and_widths_are_compared_before_numbers(
    pair_bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = pair_bundle("visual_bert", "fp32")
    with pytest.raises(FidelityError, match=r"scorer's labels: expected those of the judge, \('yes', 'no'\), got"):
        verify(root, against=pair_bundle("visual_bert_reasoning", "fp32")[0])
    turned = shutil.copytree(root, tmp_path / "turned")
    tiny.rewrite(turned, lambda data: data["labels"].reverse())
    with pytest.raises(FidelityError, match="scorer's labels"):
        verify(turned, against=root)
    monkeypatch.setattr(pairs, "WIDTH", 24)
    narrow = pairs.visual_bert(tmp_path / "narrow")
    with pytest.raises(FidelityError, match="width of features: expected those of the judge, 24, got 40"):
        verify(root, against=narrow)


@pytest.mark.slow
def test_a_large_bias_hides_no_lost_answer(traced: Callable[..., ExportReport], tmp_path: Path) -> None:
    """Two models of other weights that say the same in the main: their plain cosines are near 1."""

    def biased(model: Any) -> None:
        model.cls.bias.data = 200.0 * (-1.0) ** torch.arange(len(pairs.LABELS))

    for seed in (0, 5):
        source = pairs.visual_bert(tmp_path / f"checkpoint-{seed}", seed=seed, edit=biased)
        traced(source, tmp_path / f"bundle-{seed}")
    with pytest.raises(FidelityError, match=r"of what varies in them, got"):
        verify(tmp_path / "bundle-0", against=tmp_path / "bundle-5")


def _two(folder: Path) -> None:
    for path in sorted(folder.glob("*.npy"))[2:]:
        path.unlink()


def _replace(value: Any, **more: Any) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "picture-03.npy", value, **more)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "found nothing"),
        (_two, "at least 6 .npy files with features of regions, found 2"),
        (
            _replace(np.zeros((3, 9), np.float32)),
            r"picture-03.npy: expected finite float32 features \(1 to 256 regions, 40\)",
        ),
        (_replace(np.zeros((3, 40))), "got float64"),
        (_replace(np.full((3, 40), np.nan, np.float32)), "expected finite"),
        (_replace(np.array([{}], object), allow_pickle=True), "picture-03.npy: expected a .npy file"),
        (lambda folder: (folder / "picture-03.npy").write_text("none"), "picture-03.npy: expected a .npy file"),
        (lambda folder: (folder / "picture-03.npy").write_bytes(b"PK\x03\x04"), "picture-03.npy: expected a .npy file"),
        (_replace(np.zeros((0, 40), np.float32)), r"\(1 to 256 regions, 40\), got float32 \(0, 40\)"),
        (_replace(np.zeros((300, 40), np.float32)), r"\(1 to 256 regions, 40\), got float32 \(300, 40\)"),
    ],
    ids=["nowhere", "few", "width", "double", "nan", "objects", "text", "zip", "none", "many"],
)
def test_what_is_no_folder_of_features_is_refused(change: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    folder = pairs.regions_folder(tmp_path / "folder")
    change(folder)
    with pytest.raises(CalibrationError, match=message):
        open_regions(folder, LIMITS)


def test_topics_and_missing_data_are_refused(pair_bundle: Bundles, tmp_path: Path) -> None:
    source = pair_bundle("visual_bert", "fp32")[0].parent / "checkpoint"
    with pytest.raises(CalibrationError, match=r"--topics.*\.npy"):
        export(source, tmp_path / "bundle", topics=tmp_path / "topics.yaml")
    with pytest.raises(CalibrationError, match="int8"):
        export(source, tmp_path / "bundle", precision="int8")
    assert not (tmp_path / "bundle").exists()


def test_a_folder_is_named_by_its_content_and_synthetic_features_say_what_they_are(tmp_path: Path) -> None:
    folder = pairs.regions_folder(tmp_path / "folder")
    complete, few = open_regions(folder, LIMITS), open_regions(folder, LIMITS, limit=7)
    assert complete.sha256 != few.sha256 and len(few.calibration) + len(few.held_out) == 7
    first, again = make_up_regions(5), make_up_regions(5)
    assert first.kind == "synthetic" and not first.sha256
    for one, other in zip(first.held_out, again.held_out, strict=True):
        assert (one.load() == other.load()).all() and one.load().shape[1] == 5


def test_it_answers_where_neither_torch_nor_transformers_can_be_imported(pair_bundle: Bundles, tmp_path: Path) -> None:
    root, _ = pair_bundle("visual_bert", "fp32")
    np.save(tmp_path / "f.npy", pairs.regions())
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'transformers', 'onnx'), None))\n"
        "import numpy as np, edgevlm\n"
        f"print(edgevlm.load({str(root)!r}).score(np.load({str(tmp_path / 'f.npy')!r}), 'is it red?').best)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    with edgevlm.load_scorer(root) as scorer:
        assert done.stdout.strip() == scorer.score(pairs.regions(), "is it red?").best


def test_a_rewritten_label_is_detected(pair_bundle: Bundles, tmp_path: Path) -> None:
    root = shutil.copytree(pair_bundle("visual_bert", "fp32")[0], tmp_path / "copy")
    tiny.rewrite(root, lambda data: data["labels"].reverse())
    with edgevlm.load_scorer(root) as turned, edgevlm.load_scorer(pair_bundle("visual_bert", "fp32")[0]) as complete:
        one, other = (model.score(pairs.regions(), "is it red?") for model in (turned, complete))
        np.testing.assert_array_equal(one.logits, other.logits)
        assert one.labels == other.labels[::-1]
