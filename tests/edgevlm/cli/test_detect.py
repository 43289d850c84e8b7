"""The command line on a detector: a table for people, boxes for machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support import spotter
from typer.testing import CliRunner

import edgevlm
from edgevlm import errors
from edgevlm.cli.app import app

LABELS = ["push the cup", "open the drawer"]


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return spotter.regions(tmp_path / "bundle")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    return path


def figures(tmp_path: Path, *arguments: str | Path) -> Any:
    target = tmp_path / "figures.json"
    done = CliRunner().invoke(app, [*map(str, arguments), "--json", str(target)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(target.read_text())


def process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgevlm.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_run_finds_what_the_api_finds(detector: Path, picture: Path, tmp_path: Path) -> None:
    arguments = ("run", detector, "--image", picture, "--labels", ", ".join(LABELS), "--threshold", "0.7")
    output = figures(tmp_path, *arguments)
    with edgevlm.load_detector(detector) as model:
        want = model.detect(picture, LABELS, threshold=0.7)
        assert 0 < len(want.labels) < len(model.detect(picture, LABELS).labels)
    assert [row["label"] for row in output["found"]] == list(want.labels) and output["threshold"] == 0.7
    np.testing.assert_allclose([row["score"] for row in output["found"]], want.scores, atol=1e-6)
    np.testing.assert_allclose([row["box"] for row in output["found"]], want.boxes, atol=1e-4)
    printed = process(*arguments).stdout
    assert want.labels[0] in printed and f"{want.scores[0]:.4f}" in printed and "left" in printed


def test_inspect_and_profile_know_detectors(detector: Path, tmp_path: Path) -> None:
    output = process("inspect", detector)
    assert output.returncode == 0 and "16 of a picture" in output.stdout and "at most 6 tokens" in output.stdout
    profiled = figures(tmp_path, "profile", detector, "--steps", "40", "--warmup", "3")
    assert set(profiled["stages"]) == {"preprocess", "vision", "text"}
    assert profiled["stages"]["vision"]["n"] == 40 and profiled["stages"]["text"]["n"] < 5
    assert "ms" in process("profile", detector, "--steps", "5", "--warmup", "1").stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--labels", "a,b"), 2),
        (("--image", "PICTURE"), 2),
        (("--image", "PICTURE", "--text", "cup"), 2),
        (("--image", "PICTURE", "--image", "PICTURE", "--labels", "cup"), 2),
        (("--image", "PICTURE", "--labels", "cup", "--text", "cup"), 2),
        (("--image", "PICTURE", "--labels", "cup", "--features", "f.npy"), 2),
        (("--image", "PICTURE", "--labels", "cup", "--state", "1,2"), 2),
        (("--image", "PICTURE", "--labels", "cup,"), errors.InstructionError.exit_code),
        (("--image", "PICTURE", "--labels", "cup", "--threshold", "2"), errors.ContractError.exit_code),
        (("--image", "nowhere.png", "--labels", "cup"), errors.PictureError.exit_code),
        (("--sim",), errors.TaskError.exit_code),
        (("--chat",), errors.TaskError.exit_code),
    ],
)
def test_what_a_detector_cannot_do_has_an_exit_code(
    detector: Path, picture: Path, arguments: tuple[str, ...], code: int
) -> None:
    done = process("run", detector, *(str(picture) if part == "PICTURE" else part for part in arguments))
    assert done.returncode == code and "Traceback" not in done.stderr


def test_a_profile_has_texts_of_its_own(detector: Path) -> None:
    done = process("profile", detector, "--steps", "2", "--instruction", "the cup")
    assert done.returncode == 2 and "--instruction: means nothing" in done.stderr
