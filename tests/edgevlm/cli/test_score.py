"""The command line on models that read pairs: a table for people, scores for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from support import paired
from typer.main import get_command
from typer.testing import CliRunner

import edgevlm
from edgevlm import errors
from edgevlm.cli.app import app
from edgevlm.cli.run import ALWAYS
from edgevlm.cli.tasks import ROWS
from edgevlm.manifest.schema import Task

ASKED = "push the red cup"


@pytest.fixture
def scorer(tmp_path: Path) -> Path:
    return paired.scorer(tmp_path / "bundle")


@pytest.fixture
def features(tmp_path: Path) -> Path:
    np.save(tmp_path / "f.npy", paired.regions())
    return tmp_path / "f.npy"


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)])


def figures(tmp_path: Path, *arguments: str | Path) -> tuple[Any, str]:
    target = tmp_path / "figures.json"
    done = invoke(*arguments, "--json", target)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(target.read_text()), done.output


def test_run_says_what_the_api_says(scorer: Path, features: Path, tmp_path: Path) -> None:
    output, printed = figures(tmp_path, "run", scorer, "--features", features, "--text", ASKED)
    with edgevlm.load_scorer(scorer) as model:
        want = model.score(paired.regions(), ASKED)
    assert output["best"] == want.best and output["labels"] == list(want.labels)
    np.testing.assert_allclose(output["scores"], want.scores, atol=1e-6)
    np.testing.assert_allclose(output["logits"], want.logits, atol=1e-6)
    assert want.best in printed and f"{want.scores.max():.4f}" in printed


@pytest.mark.parametrize(
    "arguments",
    [("--features", "F"), ("--text", ASKED), ("--image", "F", "--text", ASKED),
     ("--features", "F", "--text", ASKED, "--text", "again"), ("--sim", "--features", "F")],
)  # fmt: skip
def test_what_a_scorer_cannot_be_asked_is_a_usage_error(
    scorer: Path, features: Path, arguments: tuple[str, ...]
) -> None:
    done = invoke("run", scorer, *(str(features) if part == "F" else part for part in arguments))
    assert done.exit_code == 2, done.output


@pytest.mark.parametrize(
    ("option", "value"),
    [("--labels", "a,b"), ("--threshold", "0.1"), ("--temperature", "0"), ("--seed", "5000000"), ("--image", "F"),
     ("--state", "1"), ("--max-new-tokens", "128"), ("--record", "f.mp4"), ("--command", "go"), ("--episodes", "3")],
)  # fmt: skip
def test_an_option_that_means_nothing_to_a_scorer_is_a_usage_error(
    scorer: Path, features: Path, option: str, value: str
) -> None:
    """Even with the value that it has by itself."""
    done = invoke("run", scorer, "--features", features, "--text", ASKED, option, value)
    assert done.exit_code == 2 and "--features" in done.output, done.output
    assert f"{option}: means" in " ".join(done.output.replace("│", " ").split())


def test_every_option_of_run_belongs_to_a_kind_of_model() -> None:
    """A new one is placed in the table, or nobody could give it."""
    (run,) = (one for one in get_command(app).commands.values() if one.name == "run")  # type: ignore[attr-defined]
    assert {param.name for param in run.params} - {"help"} == ALWAYS.union(
        *(way.options for row in ROWS.values() for way in row.ways.values())
    )
    assert set(ROWS) == set(get_args(Task))


def test_a_file_that_is_no_array_has_its_own_exit_code(scorer: Path, tmp_path: Path) -> None:
    (tmp_path / "f.npy").write_text("no array")
    done = invoke("run", scorer, "--features", tmp_path / "f.npy", "--text", ASKED)
    assert isinstance(done.exception, errors.ContractError) or done.exit_code == errors.ContractError.exit_code


def test_inspect_and_profile_know_scorers(scorer: Path, tmp_path: Path) -> None:
    output, printed = figures(tmp_path, "inspect", scorer)
    assert output["manifest"]["labels"] == list(paired.LABELS)
    assert "1 to 8 regions of 5 numbers each" in printed and "yes, no, maybe" in printed
    timed, printed = figures(tmp_path, "profile", scorer, "--steps", "4", "--warmup", "1")
    assert set(timed["stages"]) == {"head"} and timed["step_ms"]["n"] == 4


def test_labels_and_texts_work_on_a_retriever_that_reads_pairs(tmp_path: Path) -> None:
    root, path = paired.cross(tmp_path / "cross"), tmp_path / "a.png"
    assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    labels = ["push the cup", "open the drawer"]
    with edgevlm.load_retriever(root) as model:
        want = model.classify(path, labels)
    output, _ = figures(tmp_path, "run", root, "--image", path, "--labels", ",".join(labels))
    assert output["best"] == want.best
    np.testing.assert_allclose([output["scores"][label] for label in labels], want.scores, atol=1e-6)
    matched, _ = figures(tmp_path, "run", root, "--image", path, "--text", labels[0])
    assert matched["scores"][0][0] == pytest.approx(output["scores"][labels[0]], abs=1e-6)
    _, printed = figures(tmp_path, "inspect", root)
    assert "cross" in printed and "yes - no" in printed
    timed, _ = figures(tmp_path, "profile", root, "--steps", "4", "--warmup", "1")
    assert set(timed["stages"]) == {"vision", "head", "preprocess"}
