"""The trained default, from its checkpoint and recording to the closed loop: the short gate that only catches collapse.

The decisions are made by `make closed-loop`: 915 paired episodes, the controls and the plan.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import edgevlm
from edgevlm import RuntimeOptions
from edgevlm.bundle import open_bundle
from edgevlm.cli.app import app
from edgevlm.sim.evaluation import EvaluationPlan, evaluate
from edgevlm_export.exporter import export
from edgevlm_tabletop.commands import DEMO_SEEDS, GATE_SEEDS, LOG_SEEDS, SELECTION_SEEDS
from edgevlm_tabletop.plan_gate import measure
from edgevlm_tabletop.sim import TabletopSimulator

TABLETOP = Path(__file__).parents[2] / "examples" / "tabletop"
CI_SEED = GATE_SEEDS.start + 500_000
OPTIONS = RuntimeOptions(intra_threads=2)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` exports."""
    root = tmp_path_factory.mktemp("tabletop") / "int8"
    export(TABLETOP / "checkpoint", root, precision="int8", calibration=TABLETOP / "log.mcap")
    return root


@pytest.fixture(scope="module")
def simulator() -> Any:
    simulator = TabletopSimulator()
    yield simulator
    simulator.close()


def drive(bundle: Path, simulator: TabletopSimulator, **plan: Any) -> dict[str, Any]:
    with edgevlm.load(bundle, OPTIONS) as policy:
        return evaluate(policy, simulator, EvaluationPlan(**{"seed": CI_SEED, **plan})).to_json()


@pytest.mark.slow
def test_int8_still_follows_its_instruction(int8: Path, simulator: TabletopSimulator) -> None:
    done = drive(int8, simulator, episodes=60)
    assert done["success_rate"] >= 0.85, [row for row in done["outcomes"] if not row["success"]]
    assert done["encodes_per_frame"] == 1.0
    assert set(done["per_command"]) == set(simulator.commands)


@pytest.mark.slow
def test_a_blank_image_does_nothing(int8: Path, simulator: TabletopSimulator) -> None:
    assert drive(int8, simulator, episodes=15, control="blank-image")["success_rate"] <= 0.2


@pytest.mark.slow
def test_another_command_is_done_instead(int8: Path, simulator: TabletopSimulator) -> None:
    done = drive(int8, simulator, episodes=30, control="wrong-command")
    assert done["given"]["success_rate"] >= 0.8
    assert done["success_rate"] <= 0.4


@pytest.mark.slow
def test_plans_follow_the_expert(int8: Path) -> None:
    figures = measure(int8, EvaluationPlan(episodes=15, seed=CI_SEED))
    assert figures["step_accuracy"] >= 0.8
    assert figures["waypoint_error_m"]["p90"] < figures["hold_position_error_m"]["p90"] / 2


@pytest.mark.slow
def test_everything_that_int8_should_hold_is_int8_in_both_forms(int8: Path) -> None:
    manifest = open_bundle(int8).manifest
    assert manifest.stages["vision"].precision == "int8"  # the vision tower is included
    for stage in manifest.stages.values():
        assert (stage.precision == "int8") == (stage.quantized_nodes > 0)
        assert stage.precision == "int8" or stage.reason
        assert set(stage.forms) == {"cpu", "tensorrt"}


@pytest.mark.slow
def test_episodes_of_the_split_are_recorded_and_apart(int8: Path) -> None:
    split = open_bundle(int8).records()["calibration"]["split"]
    sides = [{episode["index"] for episode in split[side]} for side in ("calibration", "held_out")]
    assert not sides[0] & sides[1]
    for side in ("calibration", "held_out"):
        assert len({episode["instruction"] for episode in split[side]}) >= 15


def test_seeds_of_training_selection_recording_and_gate_are_apart() -> None:
    ranges = sorted((DEMO_SEEDS, SELECTION_SEEDS, LOG_SEEDS, GATE_SEEDS), key=lambda seeds: seeds.start)
    assert all(first.stop <= second.start for first, second in itertools.pairwise(ranges))


def test_what_ships_is_small() -> None:
    assert sum(path.stat().st_size for path in (TABLETOP / "checkpoint").iterdir()) <= 12_000_000
    assert (TABLETOP / "log.mcap").stat().st_size < 15_000_000


@pytest.mark.slow
def test_run_sim_writes_film_strip_and_figures(int8: Path, tmp_path: Path) -> None:
    import json

    from typer.testing import CliRunner

    reported = ["run", str(int8), "--sim", "--episodes", "2", "--command", "reach the red puck"]
    reported += [
        "--json",
        str(tmp_path / "run.json"),
        "--record",
        str(tmp_path / "r.mp4"),
        "--strip",
        str(tmp_path / "r.png"),
    ]
    result = CliRunner().invoke(app, reported)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run.json").read_text())["episodes"] == 2
    assert (tmp_path / "r.mp4").read_bytes()[4:8] == b"ftyp" and (tmp_path / "r.png").read_bytes().startswith(
        b"\x89PNG"
    )


@pytest.mark.slow
def test_a_cut_recording_is_used_as_far_as_it_is_intact_and_export_says_so(tmp_path: Path) -> None:
    cut = tmp_path / "cut.mcap"
    cut.write_bytes((TABLETOP / "log.mcap").read_bytes()[:5_000_000])
    (tmp_path / "cut.topics.yaml").write_bytes((TABLETOP / "log.topics.yaml").read_bytes())
    command = [
        sys.executable,
        "-m",
        "edgevlm.cli",
        "export",
        str(TABLETOP / "checkpoint"),
        "-o",
        str(tmp_path / "int8"),
    ]
    done = subprocess.run([*command, "--int8", "--calib", str(cut)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the recording is cut at byte" in " ".join(done.stderr.split())
    assert open_bundle(tmp_path / "int8").records()["calibration"]["samples"] > 100
