"""int8 retrievers: calibrated on real photographs, judged on held-out ones, and proof against outlier channels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import hub

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.errors import CalibrationError
from edgevlm_calibration.retrieval import calibrate_retriever
from edgevlm_calibration.sources import open_pictures
from edgevlm_export.courses import RetrieverCourse
from edgevlm_export.courses import retriever as course_module
from edgevlm_export.exporter import Job, export
from edgevlm_export.families import build
from edgevlm_export.figures import cosine
from edgevlm_export.passes.equalize import equalize, evened
from edgevlm_export.passes.peaks import peaks as peaks_of
from edgevlm_export.report import ExportReport
from edgevlm_export.stage_graph import RetrieverGraph
from edgevlm_export.stages import outputs, quantized_stage

Exported = tuple[Path, ExportReport]


@pytest.fixture(scope="module")
def int8(
    hub_source: Path, photos: Path, traced: Callable[..., ExportReport], tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    output = tmp_path_factory.mktemp("hub-int8") / "bundle"
    return output, traced(hub_source, output, precision="int8", calibration=photos)


def check_stages(report: ExportReport) -> None:
    """Every stage keeps .99 in int8, or is in fp32 and says what int8 would have cost; one at least is int8."""
    stages = {stage.stage: stage for stage in report.stages}
    assert "int8" in {stage.precision for stage in stages.values()}
    for stage in stages.values():
        if stage.precision == "int8":
            assert stage.quantized_nodes > 10 and not stage.reason
        else:
            found = re.search(r"worst cosine (0\.\d+) over 16 calibration inputs", stage.reason)
            assert found and float(found[1]) < course_module.COSINE and stage.precision == "fp32"
    for row in report.fidelity["stages"]:
        assert row["cosine_mean"] > 0.99, row


def test_int8_keeps_its_stages_or_says_why_not(int8: Exported) -> None:
    check_stages(int8[1])
    assert {row["form"] for row in int8[1].fidelity["retrieval"]} == {"cpu", "tensorrt"}
    assert all(row["same_best_text"] >= 0.8 for row in int8[1].fidelity["retrieval"])
    assert all(control["passed"] for control in int8[1].fidelity["controls"])
    bits = int8[1].fidelity["forms_bit_equal"]
    assert bits["outputs"] > 10 and set(bits["stages"]) == {"vision", "text"}


def test_int8_runs_and_is_smaller(int8: Exported, hub_fp32: Exported, photos: Path) -> None:
    small = {stage.stage: stage for stage in int8[1].stages}
    for stage in hub_fp32[1].stages:
        if small[stage.stage].precision == "int8":
            assert small[stage.stage].bytes["cpu"] < 0.75 * stage.bytes["cpu"]
    with edgevlm.load_retriever(int8[0]) as quick, edgevlm.load_retriever(hub_fp32[0]) as whole:
        labels = ["a photo of a cat", "a cup of coffee", "a rocket"]
        got, want = (one.classify(photos / "coffee.png", labels).scores for one in (quick, whole))
        assert 0 < np.abs(got - want).max() < 0.1


def test_pictures_that_calibrated_do_not_judge(int8: Exported) -> None:
    split = open_bundle(int8[0]).records()["calibration"]["split"]
    judged = int8[1].fidelity["data"]["held_out_pictures"]
    assert set(judged) == set(split["held_out"]) and not set(judged) & set(split["calibration"])
    assert not set(split["held_out_texts"]) & set(split["calibration_texts"])
    assert len(judged) + len(split["calibration"]) == len(hub.photographs())


@pytest.fixture(scope="module")
def outlying(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(getattr(hub, family)(tmp_path_factory.mktemp("outliers") / "checkpoint", edit=hub.outliers))


def test_outlier_channels_break_plain_int8_and_not_ours(
    outlying: Path,
    photos: Path,
    traced: Callable[..., ExportReport],
    remembered_trace: Callable[..., Any],
    tmp_path: Path,
) -> None:
    graph = build(outlying)
    assert isinstance(graph, RetrieverGraph)
    course = RetrieverCourse(graph, open_pictures(photos))
    models = {stage.name: remembered_trace(stage) for stage in graph.stages}
    naive = _worst(course, models, tmp_path / "naive")
    assert all(worst < course_module.COSINE for worst in naive.values()), naive
    check_stages(traced(outlying, tmp_path / "bundle", precision="int8", calibration=photos))


def _worst(course: RetrieverCourse, models: Mapping[str, onnx.ModelProto], root: Path) -> dict[str, float]:
    """Stage -> worst cosine of its plain int8 form with itself."""
    table = calibrate_retriever(Job(course, root, lambda *_: None).fp32(models, root), course.data)
    found = {}
    for name, model in models.items():
        stage = course.graph.stage(name)
        feeds = course._feeds(stage)
        pairs = zip(outputs(model, feeds), outputs(quantized_stage(stage, model, table).model, feeds), strict=True)
        found[name] = min(cosine(one, other) for one, other in pairs)
    return found


def test_evening_out_changes_no_bit_of_the_output_and_removes_the_outliers(
    outlying: Path, photos: Path, remembered_trace: Callable[..., Any]
) -> None:
    graph = build(outlying)
    assert isinstance(graph, RetrieverGraph)
    course = RetrieverCourse(graph, open_pictures(photos))
    for stage in graph.stages:
        model, feeds = remembered_trace(stage), course._feeds(stage)
        peaks = peaks_of(model, evened(model), feeds)
        even = equalize(model, peaks)
        after = peaks_of(even, evened(even), feeds)
        spread = {name: np.ptp(np.log2(peak)) for name, peak in peaks.items()}
        assert set(peaks) == set(after) and sum(one > 5 for one in spread.values()) == 4
        assert all(np.ptp(np.log2(peak)) < 5 for peak in after.values())
        for one, other in zip(outputs(model, feeds), outputs(even, feeds), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


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
