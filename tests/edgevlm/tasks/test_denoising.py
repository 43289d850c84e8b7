"""A policy that makes its chunk of noise, from the bundle to the chunk: everything that a robot says matters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import denoising, tiny

import edgevlm
from edgevlm.manifest.contract import Observation, Stamped
from edgevlm.tasks import Policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    opened = edgevlm.load(denoising.policy(tmp_path_factory.mktemp("denoise") / "bundle"))
    assert isinstance(opened, Policy)
    return opened


def test_a_chunk_depends_on_frame_words_and_state_and_is_the_same_after_a_reset(policy: Policy) -> None:
    observed = tiny.observation(policy.contract, 0)
    other = tiny.observation(policy.contract, 1)
    state = Stamped(np.float32([0.3, -0.3, 0.3]), observed.frames["front"].stamp_ns)
    steps: list[Observation] = [
        *(observed, observed),
        replace(observed, frames={"front": Stamped(other.frames["front"].value, observed.frames["front"].stamp_ns)}),
        replace(observed, instruction=tiny.COMMANDS[2]),
        replace(observed, state=state),
    ]
    chunks = [policy.session().act(one).values for one in steps]
    assert np.array_equal(chunks[0], chunks[1])
    for changed in chunks[2:]:
        assert np.abs(changed - chunks[0]).max() > 1e-3


def test_an_observation_is_read_once_and_noise_takes_its_steps(policy: Policy) -> None:
    session = policy.session()
    for index in range(3):
        session.act(tiny.observation(policy.contract, index))
    assert dict(session.stage_runs) == {"vision": 3, "prefix": 3, "denoise": 3 * denoising.STEPS}
