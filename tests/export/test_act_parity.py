"""A LeRobot policy in ONNX Runtime does what LeRobot's own code did: the same chunk, in the units of the robot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import lerobot_policies as policies

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.engines import Arrays, Hook, hooked
from edgevlm.manifest.contract import Observation, Stamped
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Policy
from edgevlm_export.report import ExportReport

TOLERANCE = 1e-4  # of the largest number of the chunk
CONTROL = 100  # a wrong input moves the chunk by this many tolerances
STEPS = range(3)
CASES = ("act", pytest.param("act_other", marks=pytest.mark.slow))
OPTIONS = RuntimeOptions(intra_threads=1)
Export = Callable[..., ExportReport]


@pytest.fixture
def opened(golden_bundle: Callable[[str], Path]) -> Iterator[Policy]:
    policy = edgevlm.load(golden_bundle("act"), OPTIONS)
    assert isinstance(policy, Policy)
    with policy:
        yield policy


def off(chunk: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(chunk - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_the_bundle_gives_the_chunk_that_lerobot_gives(golden_bundle: Callable[[str], Path], case: str) -> None:
    retained = policies.answers(case)
    with edgevlm.load(golden_bundle(case), OPTIONS) as policy:
        assert isinstance(policy, Policy)
        for step in STEPS:
            chunk = policy.act(policies.observation(policy.contract, retained, step))
            assert off(chunk.values, retained["chunks"][step]) < TOLERANCE
            assert chunk.names == policies.JOINTS and chunk.units == ("rad",) * 4 + ("1",)


@pytest.mark.slow
def test_statistics_among_the_weights_give_the_same_chunk(traced: Export, tmp_path: Path) -> None:
    source = policies.write_policy(tmp_path / "old", old=True)
    assert not list(source.glob("policy_*"))
    traced(source, tmp_path / "bundle", robot=policies.write_robot(tmp_path / "robot.yaml"))
    retained = policies.answers("act")
    with edgevlm.load(tmp_path / "bundle", OPTIONS) as policy:
        assert isinstance(policy, Policy)
        chunk = policy.act(policies.observation(policy.contract, retained, 0))
    assert off(chunk.values, retained["chunks"][0]) < TOLERANCE


def other_picture(one: Observation, other: Observation) -> Observation:
    return replace(one, frames={**one.frames, "wrist_eye": other.frames["wrist_eye"]})


def other_state(one: Observation, other: Observation) -> Observation:
    assert other.state is not None and one.state is not None
    return replace(one, state=Stamped(other.state.value, one.state.stamp_ns))


def swapped(one: Observation, _: Observation) -> Observation:
    return replace(one, frames={"top_eye": one.frames["wrist_eye"], "wrist_eye": one.frames["top_eye"]})


@pytest.mark.parametrize("wrong", [other_picture, other_state, swapped])
def test_a_wrong_input_moves_the_chunk(
    opened: Policy, wrong: Callable[[Observation, Observation], Observation]
) -> None:
    retained = policies.answers("act")
    one = policies.observation(opened.contract, retained, 0)
    later = policies.observation(opened.contract, retained, 1)
    later = replace(
        later, frames={name: Stamped(frame.value, policies.START_NS) for name, frame in later.frames.items()}
    )
    chunk = opened.session().act(wrong(one, later))
    assert off(chunk.values, retained["chunks"][0]) > CONTROL * TOLERANCE


class _Shifted(Hook):
    """The features of the vision stage lie one cell to the side."""

    def after(self, stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        return {name: np.roll(value, 1, -1) for name, value in outputs.items()} if stage == "vision" else outputs


def test_features_in_the_wrong_place_move_the_chunk(golden_bundle: Callable[[str], Path]) -> None:
    retained = policies.answers("act")
    with Policy(open_bundle(golden_bundle("act")), OPTIONS, engines=hooked(_Shifted())) as policy:
        chunk = policy.act(policies.observation(policy.contract, retained, 0))
    assert off(chunk.values, retained["chunks"][0]) > CONTROL * TOLERANCE


def test_the_chunk_does_not_depend_on_earlier_instructions_or_frames(opened: Policy) -> None:
    retained = policies.answers("act")
    session = opened.session()
    for step in STEPS:
        last = session.act(policies.observation(opened.contract, retained, step, f"words {step}"))
    fresh = opened.session().act(policies.observation(opened.contract, retained, STEPS[-1]))
    assert np.array_equal(last.values, fresh.values)
    assert session.encodes_per_frame == 1.0


@pytest.mark.slow
def test_cameras_of_one_size_share_a_stage_and_others_do_not(golden_bundle: Callable[[str], Path]) -> None:
    alike, other = (open_bundle(golden_bundle(case)).manifest.stages for case in ("act", "act_other"))
    assert set(alike) == {"vision", "head"} and set(other) == {"vision_front_eye", "vision_side_eye", "head"}


def test_the_contract_says_what_the_two_files_say(opened: Policy) -> None:
    contract, retained = opened.contract, policies.answers("act")
    assert [(one.name, one.width, one.height, one.rate_hz) for one in contract.cameras] == [
        ("top_eye", 128, 96, (10.0, 30.0)),
        ("wrist_eye", 128, 96, (10.0, 30.0)),
    ]
    assert contract.instruction is None and contract.window.offsets_s == (0.0,)
    assert contract.state is not None and contract.state.names == policies.JOINTS
    action = contract.action
    assert (action.steps, action.execute_steps, action.step_s) == (retained["chunks"].shape[1], 5, 0.1)
    assert [group.kind for group in action.groups] == ["joint_position", "gripper"]
