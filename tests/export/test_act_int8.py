"""A LeRobot policy in int8, calibrated and judged in action space on a recording; and through the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import lerobot_policies as policies
from typer.testing import CliRunner

from edgevlm.bags import LogWriter
from edgevlm.bundle import Bundle
from edgevlm.cli.app import app
from edgevlm.contract import SECOND_NS
from edgevlm.errors import ContractError, FidelityError
from edgevlm_calibration.progress import silent
from edgevlm_export.courses import Course, ExportOptions, PolicyCourse, open_course
from edgevlm_export.exporter import Job
from edgevlm_export.families import build
from edgevlm_export.judge import OriginalJudge
from edgevlm_export.models.act import BLOCKS, Backbone
from edgevlm_export.stage_graph import Stage
from edgevlm_export.verify import _Run

EPISODES, STEPS = 8, 6
CAMERAS = ("top_eye", "wrist_eye")
BACKBONE = "model.backbone."
MILD = {"in_proj_weight": 0.5, "bn2.weight": 0.2}  # random layers add up what int8 costs; trained ones do less of that


def write_log(path: Path) -> Path:
    """Coarse pictures that drift, joints that wander, and a start signal before each episode."""
    random = np.random.default_rng(4)
    with LogWriter(path) as log:
        for episode in range(EPISODES):
            start_ns = (1 + 10 * episode) * SECOND_NS
            log.string("/instruction", start_ns, f"go {episode % 2}")
            coarse = {name: random.integers(0, 256, (6, 8, 3), np.uint8) for name in CAMERAS}
            for step in range(STEPS):
                stamp_ns = start_ns + step * SECOND_NS // 10
                joints = dict(zip(policies.JOINTS, random.uniform(-1.5, 1.5, 5), strict=True))
                log.joints("/joint_states", stamp_ns, joints)
                for name, blocks in coarse.items():
                    whole = np.kron(blocks, np.ones((16, 16, 1), np.uint8))
                    log.image(f"/{name}/image_raw", stamp_ns, np.roll(whole, 3 * step, 1), encoding="rgb8")
    return path


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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("act-int8")
    policies.write_policy(folder / "policy", scaled=MILD)
    settle(folder / "policy" / "model.safetensors")
    policies.write_robot(folder / "robot.yaml")
    write_log(folder / "log.mcap")
    return folder


@pytest.fixture(scope="module")
def course(files: Path) -> Course:
    options = ExportOptions(precision="int8", calibration=files / "log.mcap", topics=None, texts=None, samples=256)
    return open_course(build(files / "policy", robot=files / "robot.yaml"), options)


@pytest.fixture(scope="module")
def int8(course: Course, files: Path, remembered_trace: Callable[[Stage], onnx.ModelProto]) -> Bundle:
    """As `export` makes it, before its judge has spoken."""
    job = Job(course, files / "int8", silent)
    job.work.mkdir()
    models = {stage.name: remembered_trace(stage) for stage in course.graph.stages}
    return job.write("int8", models, job.table(models))


def run(arguments: list[str]) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_both_stages_compute_in_int8(int8: Bundle) -> None:
    stages = int8.manifest.stages
    assert {name: stage.precision for name, stage in stages.items()} == {"vision": "int8", "head": "int8"}
    assert all(stage.quantized_nodes > 5 for stage in stages.values())
    assert int8.manifest.tokenizer is None and int8.manifest.calibration is not None


def test_another_picture_moves_the_actions_by_far_more_than_int8_does(int8: Bundle, course: Course) -> None:
    assert isinstance(course, PolicyCourse)
    run_ = _Run(int8, OriginalJudge(course.graph), course.data.held_out)
    assert run_.play(("cpu",), silent) == STEPS * len(course.data.held_out)
    controls = {control.control: control for control in run_.controls("cpu")}
    assert set(controls) == {"other-picture", "shuffled-features"}, "other words cannot move a policy without words"
    assert controls["other-picture"].passed
    assert 0 < controls["other-picture"].error < 0.05, "of a spread of 1, in the model's own units"


def test_the_judge_refuses_int8_that_costs_more_than_it_may(int8: Bundle, course: Course) -> None:
    """Random layers hardly mind where things are, so the places of this model drown in what int8 costs."""
    with pytest.raises(FidelityError, match="negative control 'shuffled-features'"):
        course.judge(int8, silent)


def test_the_verbs_of_the_command_line_take_it(files: Path) -> None:
    robot = ["--robot", str(files / "robot.yaml")]
    run(["export", str(files / "policy"), "-o", str(files / "fp32"), *robot])
    shown = run(["inspect", str(files / "fp32")])
    assert "words" in shown
    run(["profile", str(files / "fp32"), "--steps", "2", "--warmup", "1"])
    run(["verify", str(files / "fp32"), "--against", str(files / "policy"), "--data", str(files / "log.mcap"), *robot])


def test_without_the_robot_file_the_command_shows_one(files: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(files / "policy"), "-o", str(tmp_path / "bundle")])
    assert isinstance(result.exception, ContractError)
    assert "rate_hz: [fill_in, fill_in]" in str(result.exception)
    assert not (tmp_path / "bundle").exists()
