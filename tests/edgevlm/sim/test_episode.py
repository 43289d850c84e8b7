"""Closed-loop episodes: what drives, what is counted, and that the controls change what the robot does."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgevlm.errors import SimulatorError
from edgevlm.sim.controls import CONTROLS, other_command
from edgevlm.sim.episode import Driver, EpisodeFrame, EpisodeSpec, run_episode
from edgevlm.sim.evaluation import Evaluation, EvaluationPlan, Watch, evaluate
from edgevlm.sim.simulator import open_simulator


def run(policy: Any, simulator: Any, **plan: Any) -> Evaluation:
    return evaluate(policy, simulator, EvaluationPlan(**{"episodes": 6, "seed": 100, **plan}))


def test_the_robot_follows_its_instruction(policy: Any, simulator: Any) -> None:
    figures = run(policy, simulator).to_json()
    assert (figures["episodes"], figures["successes"], figures["success_rate"]) == (6, 6, 1.0)
    assert simulator.resets == [(100 + i, ("left", "right", "middle")[i % 3], "plain") for i in range(6)]
    assert {observation.instruction for observation in policy.sessions[0].acted} == {"go left", "go right", "go middle"}


def test_the_figures_are_plain_json_with_every_key(policy: Any, simulator: Any) -> None:
    ticks = itertools.count(step=2_000_000)
    plan = EvaluationPlan(episodes=6, seed=100)
    figures = evaluate(policy, simulator, plan, Watch(clock=lambda: next(ticks))).to_json()
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert set(figures) == {
        "episodes", "successes", "success_rate", "per_command", "outcomes", "step_ms",
        "encodes_per_frame", "bundle_sha256", "seed", "variant", "control", "latency_ms",
    }  # fmt: skip
    assert figures["step_ms"]["p50"] == figures["step_ms"]["max"] == 2.0
    assert figures["step_ms"]["n"] == len(policy.sessions[0].acted)
    assert figures["per_command"]["left"] == {"episodes": 2, "successes": 2, "success_rate": 1.0}
    assert [outcome["seed"] for outcome in figures["outcomes"]] == list(range(100, 106))
    assert figures["encodes_per_frame"] == 1.0
    assert figures["bundle_sha256"] == "ab" * 32


def test_the_same_plan_gives_the_same_outcomes_and_another_seed_does_not(policy: Any, simulator: Any) -> None:
    def outcomes(seed: int) -> Any:
        return [(o["success"], o["steps"]) for o in run(policy, simulator, seed=seed).to_json()["outcomes"]]

    assert outcomes(3) == outcomes(3)
    assert outcomes(3) != outcomes(50)


def test_commands_are_dealt_evenly() -> None:
    specs = EvaluationPlan(episodes=10, seed=0).deal(("a", "b", "c"))
    assert Counter(spec.command for spec in specs) == {"a": 4, "b": 3, "c": 3}
    assert [spec.seed for spec in specs] == list(range(10))


def test_an_unknown_command_is_refused_before_anything_moves(policy: Any, simulator: Any) -> None:
    with pytest.raises(SimulatorError, match=r"\['up'\]: expected some of \['left', 'right', 'middle'\]"):
        run(policy, simulator, commands=("left", "up"))
    assert simulator.resets == []


def test_a_chunk_is_asked_for_after_execute_steps(policy: Any, simulator: Any) -> None:
    result = run(policy, simulator, episodes=1, commands=("left",)).results[0]
    stamps = [observation.frames["top"].stamp_ns for observation in policy.sessions[0].acted]
    assert np.diff(stamps).tolist() == [100_000_000] * (len(stamps) - 1)
    assert result.steps == len(simulator.applied) and -(-result.steps // 2) == len(result.act_ns)


def test_latency_delays_the_first_command_and_frames_that_come_meanwhile_are_pushed(
    policy: Any, make_simulator: Callable[..., Any]
) -> None:
    simulator = make_simulator(frames_every=1)
    result = run(policy, simulator, episodes=1, commands=("left",), latency_s=0.05).results[0]
    session = policy.sessions[0]
    assert result.success
    assert simulator.rests == 1, "0.05 s are one control step"
    assert simulator.applied[0] == 0.0 and simulator.applied[1] != 0.0
    assert len(session.frames) > len(session.acted) > 1


def test_frames_between_two_chunks_reach_the_window(policy: Any, make_simulator: Callable[..., Any]) -> None:
    simulator = make_simulator(frames_every=1)
    run(policy, simulator, episodes=1, commands=("left",))
    session = policy.sessions[0]
    assert len(session.frames) > len(session.acted)
    assert np.diff([frame.stamp_ns for frame in session.frames]).tolist() == [50_000_000] * (len(session.frames) - 1)


def test_frames_slower_than_a_chunk_are_refused(policy: Any, make_simulator: Callable[..., Any]) -> None:
    with pytest.raises(SimulatorError, match="further apart than a chunk lasts"):
        run(policy, make_simulator(frames_every=7), episodes=1)


def test_another_control_step_than_the_contracts_is_refused(policy: Any, make_simulator: Callable[..., Any]) -> None:
    with pytest.raises(SimulatorError, match=r"control steps of 0\.05 s as in the contract, got 0\.1 s"):
        run(policy, make_simulator(step_s=0.1), episodes=1)


def test_wrong_command_is_judged_on_both(policy: Any, simulator: Any) -> None:
    """`right` passes the middle, so `middle` succeeds when `right` was given; no other mix-up helps."""
    figures = run(policy, simulator, episodes=60, control="wrong-command").to_json()
    assert figures["given"]["success_rate"] == 1.0
    for outcome in figures["outcomes"]:
        assert outcome["given"] != outcome["command"]
        assert outcome["success"] == ((outcome["command"], outcome["given"]) == ("middle", "right"))
    assert 0 < figures["success_rate"] < 0.4


def test_the_wrong_command_is_uniform_over_the_others() -> None:
    commands = tuple("abcde")
    counts = Counter(other_command(commands, "c", seed=seed) for seed in range(2000))
    assert set(counts) == set("abde")
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_a_blank_image_stops_the_robot(policy: Any, simulator: Any) -> None:
    figures = run(policy, simulator, control="blank-image").to_json()
    assert figures["successes"] == 0 and set(simulator.applied) == {0.0}
    assert all((o.frames["top"].value == 128).all() for o in policy.sessions[0].acted)


def test_a_frozen_window_shows_the_newest_frame_everywhere(policy: Any, simulator: Any) -> None:
    figures = run(policy, simulator, control="frozen-window").to_json()
    plain, altered = policy.sessions
    assert all(len(set(window)) == 1 for window in altered.windows)
    assert any(len(set(window)) > 1 for window in plain.windows)
    assert figures["action_change"]["dx"]["mean_abs_change"] > 0.0


def test_a_shuffled_window_shows_the_true_frames_in_another_order(policy: Any, simulator: Any) -> None:
    figures = run(policy, simulator, control="shuffled-window").to_json()
    plain, altered = policy.sessions
    assert len(plain.windows) == len(altered.windows)
    for true, delayed in zip(plain.windows, altered.windows, strict=True):
        assert delayed == (true[1], true[0], true[2])
    assert figures["action_change"]["dx"]["mean_abs_change"] > 0.0


def test_the_altered_window_drives(policy: Any, simulator: Any) -> None:
    """The plain session is only compared with: the actions applied are the altered ones."""
    run(policy, simulator, episodes=1, commands=("left",))
    plain = list(simulator.applied)
    simulator.applied.clear()
    run(policy, simulator, episodes=1, commands=("left",), control="frozen-window")
    assert simulator.applied == pytest.approx([-0.4] * len(simulator.applied))
    assert plain != pytest.approx([-0.4] * len(plain))


def test_a_recorder_sees_every_frame_once_and_the_last(policy: Any, simulator: Any) -> None:
    frames: list[EpisodeFrame] = []
    driver = Driver(policy.contract, policy.session(), on_frame=frames.append)
    result = run_episode(driver, simulator, EpisodeSpec(seed=1, command="left"))
    stamps = [frame.stamp_ns for frame in frames]
    assert stamps == sorted(set(stamps)) and len(stamps) == 1 + result.steps // 2
    assert {frame.instruction for frame in frames} == {"go left"}


def test_the_policy_is_warmed_up_and_its_session_reset(policy: Any, simulator: Any) -> None:
    run(policy, simulator, episodes=2)
    assert policy.warm == 1
    assert policy.sessions[0].frames[0].stamp_ns == 1_000_000_000


@pytest.mark.parametrize("control", CONTROLS)
def test_a_second_session_goes_with_window_controls_only(policy: Any, simulator: Any, control: Any) -> None:
    needs = control in ("frozen-window", "shuffled-window")
    driver = Driver(policy.contract, policy.session(), None if needs else policy.session())
    with pytest.raises(SimulatorError, match="second session"):
        run_episode(driver, simulator, EpisodeSpec(seed=1, command="left", control=control))


def test_a_simulator_that_is_not_installed_is_refused_with_those_that_are() -> None:
    with pytest.raises(SimulatorError, match=r"'no-such-robot': expected one of the installed \["):
        open_simulator("no-such-robot")
