"""int8 detectors: calibrated on real photographs, judged on held-out ones by logits and by where the boxes are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.errors import FidelityError
from edgevlm_calibration.progress import silent
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.exporter import Job
from edgevlm_export.families import prepare
from edgevlm_export.fidelity import detector as detection
from edgevlm_export.fidelity.detector import overlaps
from edgevlm_export.fidelity.verify import verify
from edgevlm_export.quantization import QUANTIZERS
from edgevlm_export.quantization.cost import COSINE
from edgevlm_export.recipes import ExportOptions, open_recipe
from edgevlm_export.recipes import detector as recipe_module
from edgevlm_export.report import ExportReport

Exported = tuple[Path, ExportReport]
LABELS = ["a photo of a cat", "a cup of coffee", "a rocket"]


@pytest.fixture(scope="module")
def int8(owl_family: str, owl_bundle: Callable[[str, str], Exported]) -> Exported:
    return owl_bundle(owl_family, "int8")


def test_int8_keeps_its_stages_or_says_why_not(int8: Exported) -> None:
    stages = {stage.stage: stage for stage in int8[1].stages}
    assert "int8" in {stage.precision for stage in stages.values()}
    for stage in stages.values():
        if stage.precision == "int8":
            assert stage.quantized_nodes > 10 and not stage.reason
        else:
            assert stage.precision == "fp32" and re.search(r"worst cosine 0\.\d+|overlap \(IoU\) 0\.\d+", stage.reason)
    assert all(row["cosine_mean"] > COSINE for row in int8[1].fidelity["stages"])


def test_boxes_and_logits_stay_near_on_pictures_that_calibrated_nothing(int8: Exported) -> None:
    rows = int8[1].fidelity["detection"]
    assert {row["form"] for row in rows} == {"cpu", "tensorrt"}
    for row in rows:
        assert row["box_iou_mean"] > 0.8 and row["logit_cosine_min"] > 0.98 and row["same_best_label"] > 0.9
        assert 1e-5 < row["box_max_abs_error"] < 0.05 and row["box_iou_p05"] >= detection.IOU_WORST_LIMIT
        assert all(value > 0.99 for name, value in row.items() if name.endswith("_centred_cosine"))
        assert {"logit_centred_cosine", "box_centred_cosine"} <= set(row)
    assert all(control["passed"] for control in int8[1].fidelity["controls"])
    bits = int8[1].fidelity["forms_bit_equal"]
    assert bits["outputs"] > 10 and set(bits["stages"]) == {"vision", "text"}
    split = open_bundle(int8[0]).records()["calibration"]["split"]
    judged = int8[1].fidelity["data"]["held_out_pictures"]
    assert judged and not set(judged) & set(split["calibration"])


def test_int8_runs_and_is_smaller(int8: Exported, owl_fp32: Exported, photos: Path) -> None:
    small = {stage.stage: stage for stage in int8[1].stages}
    for stage in owl_fp32[1].stages:
        if small[stage.stage].precision == "int8":
            assert small[stage.stage].bytes["cpu"] < 0.75 * stage.bytes["cpu"]
    with edgevlm.load_detector(int8[0]) as quick, edgevlm.load_detector(owl_fp32[0]) as full:
        got, want = (one.regions(photos / "coffee.png", LABELS) for one in (quick, full))
        assert 0 < np.abs(got.logits - want.logits).max() < 0.05 * np.abs(want.logits).max()


@pytest.mark.parametrize("limit", [pytest.param("IOU", marks=pytest.mark.slow), "IOU_WORST"])
def test_boxes_that_would_move_keep_the_stage_in_floats(
    limit: str, owl_source: Path, photos: Path, remembered_trace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe_module, limit, 0.9999)
    asked = ExportOptions(precision="int8", calibration=photos, topics=None, texts=None, samples=256)
    recipe = open_recipe(prepare(Checkpoint(owl_source)), asked)
    job = Job(recipe, QUANTIZERS["int8"], tmp_path, silent)
    models = {stage.name: remembered_trace(stage) for stage in recipe.graph.stages}
    even = job.prepare(models)
    created = job.compress(even, job.table(even))
    assert created["text"].precision == "int8" and created["vision"].precision == "fp32"
    reported = (
        r"mean overlap \(IoU\) 0\.[89]\d+ and 0\.[67]\d+ at the 5th percentile over 16 runs.*0\.9999.* are asked for"
    )
    assert re.search(reported, created["vision"].reason)


def test_overlaps_are_intersections_over_unions() -> None:
    box = np.float32([[0.5, 0.5, 0.2, 0.4]])
    assert overlaps(box, box) == pytest.approx(1.0)
    assert overlaps(box, box + np.float32([[0.1, 0, 0, 0]])) == pytest.approx(1 / 3)
    assert overlaps(box, box * np.float32([[1, 1, 0.5, 1]])) == pytest.approx(0.5)
    assert overlaps(box, box + np.float32([[0.3, 0, 0, 0]])) == pytest.approx(0.0)
    assert overlaps(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32)) == pytest.approx(0.0)


def test_a_twentieth_of_the_boxes_far_off_is_refused_whatever_the_mean(
    int8: Exported, owl_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "IOU_WORST_LIMIT", 0.999)
    with pytest.raises(FidelityError, match=r"0\.999 at the 5th percentile, got 0\.[89]\d+ and 0\.[5-9]\d+"):
        verify(int8[0], against=owl_source)
