"""SmolVLA in ONNX Runtime gives the chunk that LeRobot's own code gave of the same noise, in the robot's units."""

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
CASES = ("smolvla", *(pytest.param(case, marks=pytest.mark.slow) for case in ("smolvla_other", "smolvla_few")))
OPTIONS = RuntimeOptions(intra_threads=1)
Export = Callable[..., ExportReport]


@pytest.fixture
def opened(golden_bundle: Callable[[str], Path]) -> Iterator[Policy]:
    policy = edgevlm.load(golden_bundle("smolvla"), OPTIONS)
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
    source = policies.write_policy(tmp_path / "old", "smolvla", old=True)
    assert not list(source.glob("policy_*"))
    traced(source, tmp_path / "bundle", robot=policies.write_robot(tmp_path / "robot.yaml", case="smolvla"))
    retained = policies.answers("smolvla")
    with edgevlm.load(tmp_path / "bundle", OPTIONS) as policy:
        assert isinstance(policy, Policy)
        chunk = policy.act(policies.observation(policy.contract, retained, 0))
    assert off(chunk.values, retained["chunks"][0]) < TOLERANCE


def other_picture(one: Observation, other: Observation) -> Observation:
    return replace(one, frames={**one.frames, "wrist_eye": other.frames["wrist_eye"]})


def other_state(one: Observation, other: Observation) -> Observation:
    assert other.state is not None and one.state is not None
    return replace(one, state=Stamped(other.state.value, one.state.stamp_ns))


def other_words(one: Observation, other: Observation) -> Observation:
    return replace(one, instruction=other.instruction)


@pytest.mark.parametrize("wrong", [other_picture, other_state, other_words])
def test_a_wrong_input_moves_the_chunk(
    opened: Policy, wrong: Callable[[Observation, Observation], Observation]
) -> None:
    retained = policies.answers("smolvla")
    one = policies.observation(opened.contract, retained, 0)
    later = policies.observation(opened.contract, retained, 1)
    later = replace(
        later, frames={name: Stamped(frame.value, policies.START_NS) for name, frame in later.frames.items()}
    )
    chunk = opened.session().act(wrong(one, later))
    assert off(chunk.values, retained["chunks"][0]) > CONTROL * TOLERANCE


class Changed(Hook):
    """Inputs and outputs of one stage are changed on their way."""

    def __init__(self, stage: str, inputs: Callable[[Arrays], Arrays], outputs: Callable[[Arrays], Arrays]) -> None:
        self._stage, self._inputs, self._outputs = stage, inputs, outputs

    def before(self, stage: str, inputs: Arrays) -> Arrays:
        return self._inputs(inputs) if stage == self._stage else inputs

    def after(self, stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        return self._outputs(outputs) if stage == self._stage else outputs


def same(arrays: Arrays) -> Arrays:
    return arrays


def shuffled(arrays: Arrays) -> Arrays:
    return {name: np.ascontiguousarray(value[:, [2, 0, 3, 1]]) for name, value in arrays.items()}


def without_words(arrays: Arrays) -> Arrays:
    mask = np.array(arrays["mask"])
    mask[:, 4:] = 0.0
    return {**arrays, "mask": mask}


def with_padding(arrays: Arrays) -> Arrays:
    return {**arrays, "mask": np.ones_like(arrays["mask"])}


def exchanged(arrays: Arrays) -> Arrays:
    return {**arrays, "cross_key_1": arrays["cross_key_3"], "cross_value_1": arrays["cross_value_3"]}


def early(arrays: Arrays) -> Arrays:
    return {**arrays, "time": np.roll(arrays["time"], 1, 1)}


# what is done -> (stage, to what goes in, to what comes out)
WRONG: dict[str, tuple[str, Callable[[Arrays], Arrays], Callable[[Arrays], Arrays]]] = {
    "image tokens shuffled": ("vision", same, shuffled),
    "words hidden from the prefix": ("prefix", without_words, same),
    "words hidden from the steps, which also shifts their places": ("denoise", without_words, same),
    "padding shown to the steps": ("denoise", with_padding, same),
    "one layer given another's keys": ("denoise", exchanged, same),
    "another time": ("denoise", early, same),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_fault_between_the_stages_moves_the_chunk(golden_bundle: Callable[[str], Path], name: str) -> None:
    retained = policies.answers("smolvla")
    with Policy(open_bundle(golden_bundle("smolvla")), OPTIONS, engines=hooked(Changed(*WRONG[name]))) as policy:
        chunk = policy.act(policies.observation(policy.contract, retained, 0))
    assert off(chunk.values, retained["chunks"][0]) > CONTROL * TOLERANCE


def test_other_noise_moves_the_chunk_and_a_replay_has_the_same(opened: Policy) -> None:
    retained = policies.answers("smolvla")
    session = opened.session()
    first = [session.act(policies.observation(opened.contract, retained, 0)).values for _ in range(2)]
    assert off(first[1], first[0]) > CONTROL * TOLERANCE, "the second act is made of other noise"
    session.reset()
    opened.warm_up()
    again = [session.act(policies.observation(opened.contract, retained, 0)).values for _ in range(2)]
    fresh = opened.session().act(policies.observation(opened.contract, retained, 0)).values
    assert np.array_equal(first, again) and np.array_equal(first[0], fresh)


def test_an_observation_is_read_once_and_a_frame_is_looked_at_once(opened: Policy) -> None:
    retained = policies.answers("smolvla")
    session = opened.session()
    one = policies.observation(opened.contract, retained, 0)
    session.act(one)
    assert session.stage_runs == {"vision": 2, "prefix": 1, "denoise": 5}
    assert one.state is not None
    session.act(replace(one, instruction="open the left drawer"))
    assert session.stage_runs == {"vision": 2, "prefix": 2, "denoise": 10}
    assert session.encodes_per_frame == 1.0
    assert set(session.last_times_ns) == {"prefix", "denoise", "step"}


def test_a_line_feed_behind_the_words_is_there_once(opened: Policy) -> None:
    retained = policies.answers("smolvla")
    instruction = str(retained["texts"][0])
    acts = (policies.observation(opened.contract, retained, 0, text) for text in (instruction, instruction + "\n"))
    assert np.array_equal(*(opened.session().act(one).values for one in acts))


def test_the_contract_says_what_the_files_say(opened: Policy) -> None:
    contract, manifest = opened.contract, opened.bundle.manifest
    assert [(one.name, one.width, one.height) for one in contract.cameras] == [
        ("top_eye", 64, 48),
        ("wrist_eye", 28, 40),
    ]
    assert contract.instruction is not None and contract.instruction.max_tokens == 32
    assert (contract.action.steps, contract.action.execute_steps) == (6, 4)
    assert set(manifest.stages) == {"vision", "prefix", "denoise"} and manifest.driver.name == "denoise"
    assert [operation.op for operation in manifest.preprocess["top_eye"]] == ["resize_with_pad", "normalize"]
