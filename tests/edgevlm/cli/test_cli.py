"""The command line: figures for machines, tables for people, one exit code for each kind of fault."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support import tiny
from typer.testing import CliRunner

from edgevlm import errors
from edgevlm.bundle import MANIFEST
from edgevlm.cli.app import app
from edgevlm.errors import EdgevlmError

NUMBERS = (0.1, -0.1, 0.5)
STATE = "grip=0.5,x=0.1,y=-0.1"  # in any order


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny.mono(tmp_path / "bundle")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "front.png"
    assert cv2.imwrite(str(path), tiny.image(tiny.mono_contract().cameras[0], 1)[..., ::-1])
    return path


def figures(tmp_path: Path, *arguments: str | Path) -> Any:
    """Run a verb in this process with --json FILE; the figures."""
    target = tmp_path / "figures.json"
    result = CliRunner().invoke(app, [*map(str, arguments), "--json", str(target)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(target.read_text())


def process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `edgevlm` as a process of its own."""
    command = [sys.executable, "-m", "edgevlm.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_inspect_shows_the_full_manifest_and_the_hash(bundle: Path, tmp_path: Path) -> None:
    output = figures(tmp_path, "inspect", bundle)
    assert output["manifest"] == json.loads((bundle / MANIFEST).read_text())
    assert len(output["bundle_sha256"]) == 64


def test_verify_finds_a_flipped_byte(bundle: Path, tmp_path: Path) -> None:
    assert figures(tmp_path, "verify", bundle)["whole"] is True
    stage = bundle / "stages" / "head.onnx"
    content = bytearray(stage.read_bytes())
    content[len(content) // 2] ^= 1
    stage.write_bytes(content)
    done = process("verify", bundle)
    assert done.returncode == errors.TamperedError.exit_code
    assert "TamperedError" in done.stderr and "head.onnx" in done.stderr and not done.stdout


def test_run_on_a_picture_gives_the_chunk_and_plan_that_act_gives(bundle: Path, picture: Path, tmp_path: Path) -> None:
    import edgevlm
    from edgevlm import Observation, Stamped

    arguments = ("run", bundle, "--image", picture, "--text", tiny.COMMANDS[0], "--state", STATE)
    output = figures(tmp_path, *arguments)
    lines = process(*arguments).stdout.splitlines()
    assert any(line.replace("│", " ").split()[:2] == ["dx", "m"] for line in lines)  # people see units too
    assert len(lines) < 20
    with edgevlm.load(bundle) as policy:
        frame = Stamped(tiny.image(policy.contract.cameras[0], 1), 0)
        state = Stamped(np.array(NUMBERS, np.float32), 0)
        chunk = policy.act(Observation({"front": frame}, state, tiny.COMMANDS[0]))
    np.testing.assert_allclose(output["values"], chunk.values, atol=1e-6)
    assert chunk.plan is not None and output["plan"]["step"] == chunk.plan.step
    np.testing.assert_allclose(output["plan"]["waypoints"], chunk.plan.waypoints, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--text", "", "--state", STATE), errors.InstructionError),
        (("--text", "push the crimson cup", "--state", STATE), errors.InstructionError),
        (("--text", tiny.COMMANDS[0], "--state", "x=0.1,y=nan,grip=0.5"), errors.NonFiniteError),
        (("--text", tiny.COMMANDS[0], "--state", "x=0.1,grip=0.5"), errors.ContractError),
        (("--text", tiny.COMMANDS[0], "--state", f"{STATE},z=0"), errors.ContractError),
    ],
)
def test_bad_input_has_the_exit_code_of_its_class(
    bundle: Path, picture: Path, arguments: tuple[str, ...], expected: type[EdgevlmError]
) -> None:
    done = process("run", bundle, "--image", picture, *arguments)
    assert done.returncode == expected.exit_code
    assert done.stderr.startswith(f"{expected.__name__}: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize("state", ["0.1,-0.1,0.5", "x=0.1,y=a,grip=0.5", "x=0.1,x=0.2,y=0,grip=0"])
def test_a_state_is_entered_by_names(bundle: Path, picture: Path, state: str) -> None:
    done = process("run", bundle, "--image", picture, "--text", tiny.COMMANDS[0], "--state", state)
    assert done.returncode == 2 and "--state" in done.stderr


def test_a_picture_of_another_size_is_refused(bundle: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    assert cv2.imwrite(str(small), np.zeros((5, 5, 3), np.uint8))
    done = process("run", bundle, "--image", small, "--text", tiny.COMMANDS[0], "--state", STATE)
    assert done.returncode == errors.ShapeError.exit_code and "(12, 16, 3)" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--sim", "--image", "x.png"), ("--image", "side=x.png")])
def test_usage_faults_exit_with_2(bundle: Path, arguments: tuple[str, ...]) -> None:
    assert process("run", bundle, *arguments).returncode == 2


def test_run_sim_says_when_a_bundle_names_no_simulator(bundle: Path) -> None:
    done = process("run", bundle, "--sim")
    assert done.returncode == errors.SimulatorError.exit_code and "names no simulator" in done.stderr


def test_profile_has_each_stage_the_overhead_and_the_machine(bundle: Path, tmp_path: Path) -> None:
    output = figures(tmp_path, "profile", bundle, "--steps", "60", "--warmup", "5")
    assert set(output["stages"]) == {"preprocess", "vision", "text", "pool", "head"}
    assert output["step_ms"]["n"] == output["stages"]["vision"]["n"] == 60
    assert output["stages"]["text"]["n"] < 10  # once for each new instruction
    parts = sum(row["p50"] for name, row in output["stages"].items() if name != "text")
    assert 0 < output["overhead_ms"]["p50"] < output["step_ms"]["p50"]
    assert parts < output["step_ms"]["p50"] * 1.5
    assert output["encodes_per_frame"] == 1.0
    assert output["cold_start_ms"] > output["open_ms"] > 0 and output["peak_rss_mb"] > 10
    assert output["machine"]["cpu"] and output["machine"]["versions"]["onnxruntime"]
    assert "intra_threads" in output["options"]


def test_json_on_standard_output_is_alone_there(bundle: Path) -> None:
    done = process("inspect", bundle, "--json", "-")
    assert done.returncode == 0 and json.loads(done.stdout)["bundle_sha256"]
    assert "contract" in done.stderr


def test_json_that_cannot_be_written_is_an_output_error(bundle: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    done = process("inspect", bundle, "--json", blocked / "figures.json")
    assert done.returncode == errors.OutputError.exit_code
    assert blocked.read_text() == "in the way"


def test_int8_without_a_recording_is_a_usage_fault(tmp_path: Path) -> None:
    done = process("export", tmp_path, "-o", tmp_path / "out", "--int8")
    assert done.returncode == 2 and "--calib" in done.stderr and not (tmp_path / "out").exists()


def test_no_bundle_there_says_how_to_make_one(tmp_path: Path) -> None:
    done = process("inspect", tmp_path / "none")
    assert done.returncode == errors.BundleError.exit_code and "edgevlm export" in done.stderr


@pytest.fixture
def retriever(tmp_path: Path) -> Path:
    return tiny.dual(tmp_path / "dual")


def test_run_classifies_a_picture_as_the_api_does(retriever: Path, picture: Path, tmp_path: Path) -> None:
    import edgevlm

    arguments = ("run", retriever, "--image", picture, "--labels", "push the cup,lift the drawer")
    output = figures(tmp_path, *arguments)
    assert "lift the drawer" in process(*arguments).stdout
    with edgevlm.load_retriever(retriever) as model:
        want = model.classify(picture, ["push the cup", "lift the drawer"])
    assert output["best"] == want.best and list(output["scores"]) == list(want.labels)
    np.testing.assert_allclose(list(output["scores"].values()), want.scores, atol=1e-6)


def test_run_matches_pictures_and_texts(retriever: Path, picture: Path, tmp_path: Path) -> None:
    pictures = ("--image", picture, "--image", picture)
    output = figures(tmp_path, "run", retriever, *pictures, "--text", "push the cup", "--text", "open the drawer")
    assert np.shape(output["logits"]) == np.shape(output["scores"]) == (2, 2)
    assert output["logits"][0] == pytest.approx(output["logits"][1])
    assert output["logits"][0][0] != pytest.approx(output["logits"][0][1])


def test_inspect_and_profile_know_retrievers(retriever: Path, tmp_path: Path) -> None:
    output = process("inspect", retriever)
    assert output.returncode == 0 and "resize_shortest" in output.stdout and "softmax" in output.stdout
    profiled = figures(tmp_path, "profile", retriever, "--steps", "40", "--warmup", "3")
    assert set(profiled["stages"]) == {"preprocess", "vision", "text"}
    assert profiled["stages"]["vision"]["n"] == 40 and profiled["stages"]["text"]["n"] < 5
    assert "ms" in process("profile", retriever, "--steps", "5", "--warmup", "1").stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--labels", "a,b"), 2),
        (("--image", "PICTURE"), 2),
        (("--image", "PICTURE", "--labels", "cup", "--text", "cup"), 2),
        (("--image", "PICTURE", "--labels", "cup", "--threshold", "0.1"), 2),
        (("--image", "PICTURE", "--text", "cup", "--max-new-tokens", "3"), 2),
        (("--image", "PICTURE", "--labels", "cup,"), errors.InstructionError.exit_code),
        (("--image", "nowhere.png", "--labels", "cup"), errors.PictureError.exit_code),
        (("--sim",), errors.TaskError.exit_code),
    ],
)
def test_faults_of_asking_a_retriever(retriever: Path, picture: Path, arguments: tuple[str, ...], code: int) -> None:
    done = process("run", retriever, *(str(picture) if one == "PICTURE" else one for one in arguments))
    assert done.returncode == code and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--image", "PICTURE", "--labels", "a,b"), ("--image", "PICTURE", "--threshold", "0.1"),
     ("--image", "PICTURE", "--seed", "1"), ("--sim", "--state", "1,2"), ("--sim", "--temperature", "0")],
)  # fmt: skip
def test_what_means_nothing_to_a_policy_is_a_usage_fault(
    bundle: Path, picture: Path, arguments: tuple[str, ...]
) -> None:
    done = process("run", bundle, *(str(picture) if one == "PICTURE" else one for one in arguments))
    assert done.returncode == 2 and "means nothing" in done.stderr
