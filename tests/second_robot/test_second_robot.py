"""Not only the trained default: another robot goes from checkpoint and recording to actions, by the same commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from second_robot import robot
from typer.testing import CliRunner

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.cli.app import app
from edgevlm.data import read_log
from edgevlm.errors import InstructionError, LogError
from edgevlm.manifest.contract import Observation, Stamped
from edgevlm.manifest.schema import CalibrationRef
from edgevlm.rosmsg.topic_map import load_topics
from edgevlm_calibration.table import load_table
from edgevlm_export.models.film_policy import FilmPolicy

RUNTIME = Path(edgevlm.__file__).parent
ONE_THREAD = edgevlm.RuntimeOptions(intra_threads=1)
Cli = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads on so small a model only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoint/, log.mcap and topics.yaml."""
    folder = tmp_path_factory.mktemp("second")
    robot.write_checkpoint(folder / "checkpoint")
    robot.write_log(folder / "log.mcap")
    (folder / "topics.yaml").write_text(robot.MAP)
    return folder


@pytest.fixture(scope="module")
def cli(folder: Path) -> Cli:
    """`edgevlm ARGUMENTS --json -`; paths are inside the folder. Returns the figures."""

    def run(*arguments: str) -> Any:
        words = [argument.replace("@", f"{folder}/") for argument in arguments]
        result = CliRunner().invoke(app, [*words, "--json", f"{folder}/out.json"])
        if result.exception:
            raise result.exception
        assert result.exit_code == 0, result.output
        return json.loads((folder / "out.json").read_text())

    return run


@pytest.fixture(scope="module")
def fp32(cli: Cli, folder: Path) -> Path:
    cli("export", "@checkpoint", "-o", "@fp32")
    return folder / "fp32"


@pytest.fixture(scope="module")
def int8(cli: Cli, folder: Path) -> Path:
    cli(
        "export", "@checkpoint", "-o", "@int8", "--int8", "--calib", "@log.mcap", "--topics", "@topics.yaml",
        "--samples", "40",
    )  # fmt: skip
    return folder / "int8"


def observations(folder: Path) -> list[Observation]:
    """Those of the first episode."""
    recording = read_log(folder / "log.mcap", robot.contract(), load_topics(folder / "topics.yaml"))
    assert recording.warnings == ()
    return list(recording.observations(recording.episodes[0]))


def native_chunk(folder: Path, task: robot.Task, last: int) -> NDArray[np.float32]:
    """PyTorch and Pillow on what was true, past the recording and the runtime: (K, A) in radians."""
    model = FilmPolicy.from_pretrained(folder / "checkpoint")
    with torch.no_grad():
        chunk, _, _ = model(*robot.native_inputs(task, last))
    values: NDArray[np.float32] = chunk[0].numpy() * np.float32(0.05)
    return values


def test_the_recording_comes_back_as_what_was_true(folder: Path) -> None:
    task = next(robot.tasks())
    recorded = observations(folder)
    assert len(recorded) == len(task.steps)
    for observation, step in zip(recorded, task.steps, strict=True):
        assert observation.instruction == task.command
        assert observation.frames["left"].stamp_ns == step.stamp_ns
        assert observation.frames["wrist"].stamp_ns == step.stamp_ns + 7_000_000
        assert np.array_equal(observation.frames["left"].value, step.left_rgb[:, :, ::-1])
        apart = observation.frames["wrist"].value.astype(int) - np.asarray(Image.open(BytesIO(step.wrist_jpeg)))
        assert np.abs(apart).max() <= 2  # two JPEG decoders
        assert observation.state is not None
        assert observation.state.value == pytest.approx(step.joints_rad, abs=1e-6)


def test_without_the_map_the_topics_are_listed(folder: Path) -> None:
    with pytest.raises(LogError, match=r"/left/image_raw.*found: .*/stereo/port/raw \(sensor_msgs/msg/Image\)"):
        read_log(folder / "log.mcap", robot.contract())


def test_the_exported_bundle_does_what_the_model_does_on_what_was_true(fp32: Path, folder: Path) -> None:
    """All of it at once: padded rows, BGR, JPEG, degrees, order of joints, window, resize, stages, units."""
    task = next(robot.tasks())
    with edgevlm.load(fp32, ONE_THREAD) as policy:
        for step, observation in enumerate(observations(folder)):
            chunk = policy.act(observation)
            assert np.abs(chunk.values - native_chunk(folder, task, step)).max() < 5e-4  # radians, of 0.05 and more
        assert chunk.names == tuple(f"d_{joint}" for joint in robot.JOINTS) and set(chunk.units) == {"rad"}
        assert chunk.plan is not None and chunk.plan.waypoints.shape == (2, 7)
        assert policy.contract == robot.contract()


def test_every_step_of_the_way_matters(fp32: Path, folder: Path) -> None:
    """Were one of the conversions left out, the test above would see it."""
    task = next(robot.tasks())
    truth = native_chunk(folder, task, 0)
    first = observations(folder)[0]
    assert first.state is not None
    stamp_ns, joints = first.state.stamp_ns, first.state.value
    wrong = {
        "degrees": Observation(first.frames, Stamped(np.degrees(joints), stamp_ns), task.command),
        "order": Observation(first.frames, Stamped(joints[::-1].copy(), stamp_ns), task.command),
        "words": Observation(first.frames, first.state, robot.COMMANDS[2]),
    }
    for name in ("left", "wrist"):
        swapped = Stamped(np.ascontiguousarray(first.frames[name].value[:, :, ::-1]), first.frames[name].stamp_ns)
        wrong[f"{name} channels"] = Observation({**first.frames, name: swapped}, first.state, task.command)
    with edgevlm.load(fp32, ONE_THREAD) as policy:
        for what, observation in wrong.items():
            apart = np.abs(policy.session().act(observation).values - truth).max()
            assert apart > 1e-3, what


@pytest.mark.slow
def test_int8_is_calibrated_on_the_robots_own_recording(int8: Path, fp32: Path, folder: Path, cli: Cli) -> None:
    """`calibrate` by itself makes the very table that `export` made."""
    cli("calibrate", "@fp32", "--data", "@log.mcap", "--topics", "@topics.yaml", "-o", "@table.json", "--samples", "40")
    manifest = open_bundle(int8).manifest
    quantized = {name for name, stage in manifest.stages.items() if stage.quantized_nodes}
    assert {"vision_left", "vision_wrist", "pool", "head"} <= quantized
    assert manifest.calibration == CalibrationRef(table_sha256=load_table(folder / "table.json").sha256(), samples=40)


@pytest.mark.slow
def test_verify_compares_it_with_its_checkpoint_on_the_recording(int8: Path, cli: Cli) -> None:
    figures = cli("verify", "@int8", "--against", "@checkpoint", "--data", "@log.mcap", "--topics", "@topics.yaml")
    fidelity = figures["fidelity"]
    assert {row["unit"] for row in fidelity["pipeline"]} == {"rad"}
    assert {row["name"] for row in fidelity["pipeline"]} == {f"d_{joint}" for joint in robot.JOINTS}
    assert fidelity["data"]["kind"] == "log" and all(row["passed"] for row in fidelity["controls"])


@pytest.mark.slow
def test_int8_acts_on_the_recording(int8: Path, fp32: Path, folder: Path) -> None:
    with edgevlm.load(int8, ONE_THREAD) as small, edgevlm.load(fp32, ONE_THREAD) as full:
        errors, sizes = [], []
        for observation in observations(folder):
            chunk, reference = small.act(observation), full.act(observation)
            errors.append(np.abs(chunk.values - reference.values).mean())
            sizes.append(np.abs(reference.values).mean())
        assert 0 < np.mean(errors) < 0.2 * np.mean(sizes)


def test_run_prints_a_chunk_for_one_picture_of_each_camera(fp32: Path, folder: Path, cli: Cli) -> None:
    step = next(robot.tasks()).steps[0]
    Image.fromarray(step.left_rgb).save(folder / "left.png")
    (folder / "wrist.jpg").write_bytes(step.wrist_jpeg)
    state = ",".join(f"{name}={value:.6f}" for name, value in zip(robot.JOINTS, step.joints_rad, strict=True))
    figures = cli(
        "run", "@fp32", "--image", "left=@left.png", "--image", "wrist=@wrist.jpg",
        "--text", robot.COMMANDS[0], "--state", state,
    )  # fmt: skip
    with edgevlm.load(fp32, ONE_THREAD) as policy:
        values = policy.act(observations(folder)[0]).values
    assert np.abs(np.array(figures["values"]) - values).max() < 1e-5
    assert figures["names"] == [f"d_{joint}" for joint in robot.JOINTS]


def test_a_word_of_another_robot_is_refused(fp32: Path, folder: Path) -> None:
    first = observations(folder)[0]
    with edgevlm.load(fp32, ONE_THREAD) as policy, pytest.raises(InstructionError, match="puck"):
        policy.act(Observation(first.frames, first.state, "fetch the puck"))


def test_the_runtime_does_not_know_this_robot() -> None:
    words = (*robot.JOINTS, *robot.ORDER_ON_THE_ROBOT, *robot.TOPICS.values(), "crate", "bottle", "second_robot")
    pattern = re.compile("|".join(rf"(?<![A-Za-z_]){re.escape(word)}(?![A-Za-z_])" for word in words if word != "lamp"))
    hits = [str(path) for path in RUNTIME.rglob("*.py") if pattern.search(path.read_text())]
    assert hits == []
