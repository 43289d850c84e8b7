"""A LeRobot policy in int8, calibrated and judged in action space on a recording; and through the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support import lerobot_policies as policies
from typer.testing import CliRunner

from edgevlm.bundle import Bundle, open_bundle
from edgevlm.cli.app import app
from edgevlm.errors import ContractError, FidelityError
from edgevlm_calibration.progress import silent
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.exporter import Job
from edgevlm_export.families import prepare
from edgevlm_export.fidelity.policy import CheckpointReference
from edgevlm_export.fidelity.verify import _Run
from edgevlm_export.models.act import BLOCKS, Backbone
from edgevlm_export.quantization import QUANTIZERS
from edgevlm_export.quantization.base import outputs
from edgevlm_export.quantization.cost import COSINE, worst_cosine
from edgevlm_export.recipes import ExportOptions, PolicyRecipe, Recipe, open_recipe
from edgevlm_export.report import ExportReport
from edgevlm_export.stage_graph import Stage

pytestmark = pytest.mark.slow
STEPS = policies.LOGGED
CAMERAS = ("top_eye", "wrist_eye")
BACKBONE = "model.backbone."
MILD = {"in_proj_weight": 0.5, "bn2.weight": 0.2}  # random layers add up what int8 costs; trained ones do less of that
# As after training: the chunk looks where something is, not everywhere alike, and few layers change much at once.
TRAINED = {
    **{"in_proj_weight": 0.5, "multihead_attn.in_proj_weight": 2.5, "multihead_attn.out_proj.weight": 2.5},
    **dict.fromkeys((f"encoder.layers.{i}.self_attn.out_proj.weight" for i in range(2)), 0.4),
    **dict.fromkeys((f"encoder.layers.1.norm2.{kind}" for kind in ("weight", "bias")), 0.2),  # places weigh more
    **{"linear2.weight": 0.3, "bn2.weight": 0.05},
}
INNER = {"bn2.weight": 0.2}  # in the copy with large channels: what lies behind them must count for something


def settle(path: Path) -> None:
    """Give the backbone's norms the statistics of pictures like those of the log, as a training would."""
    weights = load_file(path)
    net = Backbone(BLOCKS["resnet18"])
    own = {name.removeprefix(BACKBONE): value for name, value in weights.items() if name.startswith(BACKBONE)}
    net.load_state_dict(own, strict=False)  # the counters of its norms are not LeRobot's
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    random = np.random.default_rng(8)
    pictures = [np.kron(random.integers(0, 256, (6, 8, 3)), np.ones((16, 16, 1))) for _ in range(16)]
    pixels = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2) / 255).float()
    with torch.no_grad():
        net.train()((pixels - 0.45) / 0.22)
    weights |= {f"{BACKBONE}{name}": value for name, value in net.state_dict().items() if "running" in name}
    save_file(weights, path)


def enlarge(path: Path, by: float = 64.0) -> None:
    """Channels `by` times as large behind the inner norm of each block, and convolutions that undo it.

    The same function: only a ReLU lies between. The norms of the transformer are read by its sums, too, and nothing
    could undo it there.
    """
    weights = load_file(path)
    for name in [name for name in weights if name.startswith(f"{BACKBONE}layer") and name.endswith(".bn1.weight")]:
        block = name.removesuffix("bn1.weight")
        for kind in ("weight", "bias"):
            weights[f"{block}bn1.{kind}"][::16] *= by
        weights[f"{block}conv2.weight"][:, ::16] /= by
    save_file(weights, path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("act-int8")
    policies.write_policy(folder / "policy", scaled=MILD)
    policies.write_policy(folder / "trained", scaled=TRAINED)
    policies.write_policy(folder / "outliers", scaled=TRAINED | INNER)
    for name in ("policy", "trained", "outliers"):
        settle(folder / name / "model.safetensors")
    shutil.copytree(folder / "outliers", folder / "even")
    enlarge(folder / "outliers" / "model.safetensors")
    policies.write_robot(folder / "robot.yaml")
    policies.write_log(folder / "log.mcap", dict.fromkeys(CAMERAS, (96, 128)), ("go 0", "go 1"))
    return folder


@pytest.fixture(scope="module")
def recipe(files: Path) -> Recipe:
    return opened(files, "policy")


def opened(files: Path, name: str) -> PolicyRecipe:
    options = ExportOptions(precision="int8", calibration=files / "log.mcap", topics=None, texts=None, samples=256)
    recipe = open_recipe(prepare(Checkpoint(files / name), robot=files / "robot.yaml"), options)
    assert isinstance(recipe, PolicyRecipe)
    return recipe


@pytest.fixture(scope="module")
def int8(recipe: Recipe, files: Path, remembered_trace: Callable[[Stage], onnx.ModelProto]) -> Bundle:
    """As `export` makes it, before its judge has spoken."""
    job = Job(recipe, QUANTIZERS["int8"], files / "int8", silent)
    job.work.mkdir()
    traced = {stage.name: remembered_trace(stage) for stage in recipe.graph.stages}
    models = job.prepare(traced)
    return job.write(models, job.table(models))


def run(arguments: list[str]) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_both_stages_compute_in_int8(int8: Bundle) -> None:
    stages = int8.manifest.stages
    assert {name: stage.precision for name, stage in stages.items()} == {"vision": "int8", "head": "int8"}
    assert all(stage.quantized_nodes > 5 for stage in stages.values())
    assert int8.manifest.tokenizer is None and int8.manifest.calibration is not None


def test_another_picture_moves_the_actions_by_far_more_than_int8_does(int8: Bundle, recipe: Recipe) -> None:
    assert isinstance(recipe, PolicyRecipe)
    run_ = _Run(int8, CheckpointReference(recipe.graph), recipe.data.held_out)
    assert run_.play(("cpu",), silent) == STEPS * len(recipe.data.held_out)
    controls = {control.control: control for control in run_.controls("cpu")}
    assert set(controls) == {"other-picture", "shuffled-features"}, "other words cannot move a policy without words"
    assert controls["other-picture"].passed
    assert 0 < controls["other-picture"].error < 0.05, "of a spread of 1, in the model's own units"


def test_the_judge_refuses_int8_that_costs_more_than_it_may(int8: Bundle, recipe: Recipe) -> None:
    """Each stage keeps its cosine; the chunk is off by 0.027 all the same, and shuffled features move it by 0.065.

    Of a spread of 1; the judge asks for five times. Another picture moves the chunk by 0.19.
    """
    with pytest.raises(FidelityError, match="negative control 'shuffled-features'"):
        recipe.judge(int8, silent)


def test_it_also_refuses_the_one_stage_that_is_left_in_int8(files: Path, traced: Callable[..., ExportReport]) -> None:
    """Vision keeps less and goes back to fp32; the head alone costs 0.016, and 0.069 is not five times that."""
    more = {"robot": files / "robot.yaml", "precision": "int8", "calibration": files / "log.mcap"}
    with pytest.raises(FidelityError, match="negative control 'shuffled-features'"):
        traced(files / "policy", files / "proven", **more)
    assert not (files / "proven").exists()


def proven(files: Path, name: str, traced: Callable[..., ExportReport]) -> Bundle:
    """A bundle that its judge accepted on held-out episodes, with the same controls as a user's export."""
    more = {"robot": files / "robot.yaml", "precision": "int8", "calibration": files / "log.mcap"}
    traced(files / name, files / f"{name}-int8", **more)
    bundle = open_bundle(files / f"{name}-int8")
    reported = bundle.records()["fidelity"]
    assert reported["data"]["steps"] == STEPS * len(reported["data"]["held_out_episodes"]) > 0
    controls = {control["control"]: control for control in reported["controls"]}
    assert set(controls) == {"other-picture", "shuffled-features"}
    assert all(control["passed"] and 0 < control["error"] < 0.05 for control in controls.values())
    assert all(control["moved"] > 0.2 for control in controls.values()), "of a spread of 1"
    assert reported["forms_bit_equal"]["outputs"] > 0
    return bundle


def test_int8_passes_its_judge_where_inputs_matter_as_after_training(
    files: Path, traced: Callable[..., ExportReport]
) -> None:
    """Off by 0.04, of a spread of 1; another picture moves the chunk by 0.33, shuffled features by 0.26."""
    stages = proven(files, "trained", traced).manifest.stages
    assert {name: stage.precision for name, stage in stages.items()} == {"vision": "int8", "head": "int8"}


def test_large_channels_break_plain_int8_and_the_manifest_says_what_became_of_it(
    files: Path, traced: Callable[..., ExportReport], remembered_trace: Callable[[Stage], onnx.ModelProto]
) -> None:
    """Only channels that a matrix product reads are evened out: the convolutions stay in fp32, with the reason."""
    stages = proven(files, "outliers", traced).manifest.stages
    assert {name: stage.precision for name, stage in stages.items()} == {"vision": "fp32", "head": "int8"}
    assert "worst cosine" in stages["vision"].reason
    recipe = opened(files, "outliers")
    models = {stage.name: remembered_trace(stage) for stage in recipe.graph.stages}
    job = Job(recipe, QUANTIZERS["int8"], files / "plain", silent)
    job.work.mkdir()
    job.prepare(models)
    artifact = job.quantizer.quantize(recipe.graph.stage("vision"), models["vision"], job.table(models))
    plain = artifact.model("tensorrt")
    assert min(worst_cosine(models["vision"], plain, recipe.feeds["vision"]).values()) < COSINE


def test_the_large_channels_change_nothing_in_floats(
    files: Path, remembered_trace: Callable[[Stage], onnx.ModelProto]
) -> None:
    models = [remembered_trace(opened(files, name).graph.stage("vision")) for name in ("even", "outliers")]
    pixels = np.random.default_rng(3).standard_normal((1, 3, 96, 128)).astype(np.float32)
    one, other = (outputs(model, [{model.graph.input[0].name: pixels}])[0] for model in models)
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5 * float(np.abs(one).max()))
    assert models[0].SerializeToString() != models[1].SerializeToString()


def test_the_verbs_of_the_command_line_take_it(files: Path) -> None:
    robot = ["--robot", str(files / "robot.yaml")]
    run(["export", str(files / "policy"), "-o", str(files / "fp32"), *robot])
    displayed = run(["inspect", str(files / "fp32")])
    assert "words" in displayed
    run(["profile", str(files / "fp32"), "--steps", "2", "--warmup", "1"])
    run(["verify", str(files / "fp32"), "--against", str(files / "policy"), "--data", str(files / "log.mcap"), *robot])


def test_the_robot_file_to_fill_in_comes_on_standard_output_alone(files: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(files / "policy"), "-o", str(tmp_path / "bundle")])
    assert isinstance(result.exception, ContractError) and "edgevlm robot" in str(result.exception)
    assert not (tmp_path / "bundle").exists()
    result = CliRunner().invoke(app, ["robot", str(files / "policy")])
    assert yaml.safe_load(result.stdout)["cameras"]["top"]["rate_hz"] == ["?", "?"]
    assert f"next: edgevlm export {files / 'policy'} -o BUNDLE --robot robot.yaml" in result.stderr
