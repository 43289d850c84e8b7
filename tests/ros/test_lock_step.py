"""Over DDS, with robot, policy and gate in processes of their own, an episode is what it is in one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from rich.console import Console  # noqa: E402

from edgevlm.sim.evaluation import EvaluationPlan  # noqa: E402
from edgevlm_ros.processes import environment  # noqa: E402
from edgevlm_tabletop.commands import GATE_SEEDS  # noqa: E402
from edgevlm_tabletop.ros.demo import Setup, drive, figures  # noqa: E402
from edgevlm_tabletop.ros.episodes import CONFIG, GATE, SIM  # noqa: E402
from edgevlm_tabletop.ros.gate import differences, in_process  # noqa: E402
from edgevlm_tabletop.ros.journal import Record  # noqa: E402

pytestmark = pytest.mark.slow
SEED = GATE_SEEDS.start + 600_000
QUIET = Console(quiet=True)


@pytest.fixture
def setup(int8: Path, domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    for name, value in environment(domain).items():
        monkeypatch.setenv(name, value)
    return Setup(int8, CONFIG / "lock_step.yaml", tmp_path / "logs", domain)


def test_ten_episodes_over_dds_are_those_of_one_process_to_the_last_bit(setup: Setup) -> None:
    plan = EvaluationPlan(episodes=10, seed=SEED)
    episodes, metrics = drive(setup, plan, QUIET)
    over_ros = figures(episodes, metrics)
    assert differences(in_process(setup.bundle, plan), over_ros["outcomes"]) == []
    journal = (setup.logs / "journal.jsonl").read_text().splitlines()
    assert [Record.model_validate_json(line) for line in journal] == [episode.record for episode in episodes]
    assert over_ros["success_rate"] >= 0.8
    assert over_ros["steps_rested"] == over_ros["commands_dropped"] == 0
    assert over_ros["frames_received"] == over_ros["frames_sent"] > 0
    assert all(episode.outcome == ("succeeded" if episode.record.success else "canceled") for episode in episodes)


def test_a_limit_of_the_gate_that_binds_is_detected(setup: Setup) -> None:
    plan = EvaluationPlan(episodes=1, seed=SEED, commands=("open the drawer",))
    slow = replace(setup, changes={GATE: {"axes.dx.velocity": 0.2}})
    over_ros = figures(*drive(slow, plan, QUIET))
    assert len(differences(in_process(setup.bundle, plan), over_ros["outcomes"])) == 1


def test_commands_that_go_elsewhere_end_the_robot_with_what_to_look_at(setup: Setup) -> None:
    plan = EvaluationPlan(episodes=1, seed=SEED)
    elsewhere = {"command_topics": ["elsewhere", "command/gripper"]}
    silent = replace(setup, changes={SIM: {"timeout_s": 1.0}, GATE: elsewhere})
    with pytest.raises(RuntimeError, match=r"(?s)tabletop_sim ended with 23.*no twist and gripper.*command gate's"):
        drive(silent, plan, QUIET)
