"""int8 retrievers: calibrated on real photographs, judged on held-out ones, and proof against outlier channels."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import hub

import edgevlm
from edgevlm.bundle import Bundle, open_bundle
from edgevlm.errors import CalibrationError, FidelityError
from edgevlm_calibration.progress import Progress
from edgevlm_export.exporter import export
from edgevlm_export.quantization import cost
from edgevlm_export.recipes import RetrieverRecipe
from edgevlm_export.report import ExportReport

Exported = tuple[Path, ExportReport]


def check_stages(report: ExportReport) -> None:
    """Every stage keeps .99 in int8, or is in fp32 and says what int8 would have cost; one at least is int8."""
    stages = {stage.stage: stage for stage in report.stages}
    assert "int8" in {stage.precision for stage in stages.values()}
    for stage in stages.values():
        if stage.precision == "int8":
            assert stage.quantized_nodes > 10 and not stage.reason
        else:
            result = re.search(r"worst cosine (0\.\d+) over 16 runs of the calibration part", stage.reason)
            assert result and float(result[1]) < cost.COSINE and stage.precision == "fp32"
    for row in report.fidelity["stages"]:
        assert row["cosine_mean"] > 0.99, row


def test_int8_keeps_its_stages_or_says_why_not(hub_int8: Exported) -> None:
    check_stages(hub_int8[1])
    assert {row["form"] for row in hub_int8[1].fidelity["retrieval"]} == {"cpu", "tensorrt"}
    assert all(row["same_best_text"] >= 0.8 for row in hub_int8[1].fidelity["retrieval"])
    assert all(control["passed"] for control in hub_int8[1].fidelity["controls"])
    bits = hub_int8[1].fidelity["forms_bit_equal"]
    assert bits["outputs"] > 10 and set(bits["stages"]) == {"vision", "text"}


def test_int8_runs_and_is_smaller(hub_int8: Exported, hub_fp32: Exported, photos: Path) -> None:
    small = {stage.stage: stage for stage in hub_int8[1].stages}
    for stage in hub_fp32[1].stages:
        if small[stage.stage].precision == "int8":
            assert small[stage.stage].bytes["cpu"] < 0.75 * stage.bytes["cpu"]
    with edgevlm.load_retriever(hub_int8[0]) as quick, edgevlm.load_retriever(hub_fp32[0]) as full:
        labels = ["a photo of a cat", "a cup of coffee", "a rocket"]
        got, want = (one.classify(photos / "coffee.png", labels).scores for one in (quick, full))
        assert 0 < np.abs(got - want).max() < 0.1


def test_pictures_that_calibrated_do_not_judge(hub_int8: Exported) -> None:
    split = open_bundle(hub_int8[0]).records()["calibration"]["split"]
    judged = hub_int8[1].fidelity["data"]["held_out_pictures"]
    assert set(judged) == set(split["held_out"]) and not set(judged) & set(split["calibration"])
    assert not set(split["held_out_texts"]) & set(split["calibration_texts"])
    assert len(judged) + len(split["calibration"]) == len(hub.photographs())


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "found nothing"), ("drive.mcap", "found a file"), ("few", "at least 6 pictures, found 2")],
)
def test_what_is_no_folder_of_pictures_is_refused(
    name: str, message: str, hub_source: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "drive.mcap").write_bytes(b"")
    (tmp_path / "few").mkdir()
    for number in range(2):
        (tmp_path / "few" / f"{number}.png").symlink_to(photos / "coffee.png")
    with pytest.raises(CalibrationError, match=message):
        export(hub_source, tmp_path / "bundle", precision="int8", calibration=tmp_path / name)
    assert not (tmp_path / "bundle").exists()


def test_while_the_judge_refuses_the_stage_that_keeps_least_goes_back_to_fp32(
    hub_source: Path, photos: Path, traced: Callable[..., ExportReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, observed = RetrieverRecipe.judge, []

    def strict(recipe: RetrieverRecipe, bundle: Bundle, progress: Progress) -> dict[str, Any]:
        observed.append({name: stage.precision for name, stage in bundle.manifest.stages.items()})
        if len(observed) == 1:
            raise FidelityError("not good enough")
        return judge(recipe, bundle, progress)

    monkeypatch.setattr(RetrieverRecipe, "judge", strict)
    report = traced(hub_source, tmp_path / "bundle", precision="int8", calibration=photos)
    small = [name for name, precision in observed[0].items() if precision == "int8"]
    assert len(small) == 2 and len(observed) == 2
    (back,) = [stage for stage in report.stages if stage.precision == "fp32"]
    assert re.search(r"keeps a cosine of 0\.99\d\d, and the judge refused the whole: not good enough", back.reason)
    files = {path.name for path in (tmp_path / "bundle" / "stages").iterdir()}
    (other,) = set(small) - {back.stage}
    assert files == {f"{back.stage}.onnx", f"{other}.cpu.onnx", f"{other}.tensorrt.onnx"}
    open_bundle(tmp_path / "bundle")
