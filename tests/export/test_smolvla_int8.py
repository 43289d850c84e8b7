"""SmolVLA in int8, calibrated and judged on a recording; on a copy whose norms have channels 64 times as large, too."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from support import lerobot_policies as policies
from support.rtx import build as build_engine
from typer.testing import CliRunner

from edgevlm.bundle import open_bundle
from edgevlm.cli.app import app
from edgevlm_calibration.calibrate import calibrate
from edgevlm_calibration.policy import POLICY
from edgevlm_calibration.progress import silent
from edgevlm_calibration.runner import calibrate_on
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.exporter import Job
from edgevlm_export.families import prepare
from edgevlm_export.quantization import QUANTIZERS
from edgevlm_export.quantization.cost import COSINE, worst_cosine
from edgevlm_export.recipes import ExportOptions, PolicyRecipe, open_recipe
from edgevlm_export.stage_graph import Stage

Remembered = Callable[[Stage], onnx.ModelProto]


def opened(files: Path, name: str, table: Path | None = None) -> PolicyRecipe:
    data = table or files / "log.mcap"
    options = ExportOptions(precision="int8", calibration=data, topics=None, texts=None, samples=256)
    recipe = open_recipe(prepare(Checkpoint(files / name), robot=files / "robot.yaml"), options)
    assert isinstance(recipe, PolicyRecipe)
    return recipe


def test_int8_passes_its_judge_on_held_out_episodes(smolvla_bundle: Callable[[str], Path]) -> None:
    """In the units of the robot, with the same noise; the controls are those that a user's export runs."""
    bundle = open_bundle(smolvla_bundle("int8"))
    stages = bundle.manifest.stages
    assert {"vision", "prefix"} <= {name for name, stage in stages.items() if stage.precision == "int8"}
    assert all(stage.precision == "int8" or "worst cosine" in stage.reason for stage in stages.values())
    reported = bundle.records()["fidelity"]
    assert reported["data"]["steps"] == policies.LOGGED * len(reported["data"]["held_out_episodes"]) > 0
    controls = {control["control"]: control for control in reported["controls"]}
    assert set(controls) == {"other-picture", "other-instruction", "shuffled-features"}
    assert all(control["passed"] and 0 < control["error"] < 0.1 for control in controls.values())
    assert reported["forms_bit_equal"]["outputs"] > 0


@pytest.mark.slow
def test_large_channels_break_plain_int8_and_not_ours(
    smolvla_files: Path, remembered_trace: Remembered, tmp_path: Path
) -> None:
    recipe = opened(smolvla_files, "outliers")
    models = {stage.name: remembered_trace(stage) for stage in recipe.graph.stages}
    job = Job(recipe, QUANTIZERS["int8"], tmp_path, silent)
    even = job.prepare(models)
    with job.fp32_reference(models) as bundle:
        table = calibrate_on(bundle, recipe.data, POLICY, samples=48)
    for stage in recipe.graph.stages:
        plain = job.quantizer.quantize(stage, models[stage.name], table).model("tensorrt")
        worst = min(worst_cosine(models[stage.name], plain, recipe.feeds[stage.name]).values())
        assert worst < COSINE, stage.name
    ours = job.table(even)
    bundle = job.write(even, ours)
    stages = bundle.manifest.stages
    assert "int8" in {stage.precision for stage in stages.values()}
    assert all(stage.precision == "int8" or "worst cosine" in stage.reason for stage in stages.values())
    if find_spec("tensorrt_rtx") is not None:
        assert all(build_engine(bundle, name).nbytes > 1000 for name in stages)


@pytest.mark.slow
def test_an_earlier_table_serves_as_well(
    smolvla_files: Path, smolvla_bundle: Callable[[str], Path], remembered_trace: Remembered, tmp_path: Path
) -> None:
    """It belongs to the stages as they are, so no channels are evened out; what int8 costs is measured all the same."""
    table = tmp_path / "table.json"
    calibrate(smolvla_bundle("fp32"), smolvla_files / "log.mcap").save(table)
    recipe = opened(smolvla_files, "policy", table)
    models = {stage.name: remembered_trace(stage) for stage in recipe.graph.stages}
    job = Job(recipe, QUANTIZERS["int8"], tmp_path, silent)
    assert job.prepare(models) is models
    stages = job.write(models, job.table(models)).manifest.stages
    assert stages["vision"].precision == "int8" and set(recipe.feeds) == set(stages)


@pytest.mark.slow
def test_the_verbs_of_the_command_line_take_it(smolvla_files: Path, smolvla_bundle: Callable[[str], Path]) -> None:
    bundle, files = str(smolvla_bundle("fp32")), smolvla_files
    robot, data = ["--robot", str(files / "robot.yaml")], ["--data", str(files / "log.mcap")]
    for arguments in (
        ["inspect", bundle],
        ["profile", bundle, "--steps", "2", "--warmup", "1"],
        ["verify", bundle, "--against", str(files / "policy"), *data, *robot],
    ):
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
