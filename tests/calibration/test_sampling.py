"""Claims about who calibrates and who judges."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevlm.errors import CalibrationError
from edgevlm_calibration.sampling import evenly_spaced, split


@dataclass(frozen=True)
class Episode:
    number: int
    instruction: str


episodes = st.lists(st.sampled_from("abcdef"), min_size=2, max_size=40).map(
    lambda texts: [Episode(i, text) for i, text in enumerate(texts)]
)


@given(episodes)
def test_every_episode_is_on_exactly_one_side_and_neither_is_empty(episodes: list[Episode]) -> None:
    retained, held_out = split(episodes)
    assert sorted((*retained, *held_out), key=lambda one: one.number) == episodes
    assert retained and held_out and not set(retained) & set(held_out)


def test_each_repeated_instruction_is_on_both_sides() -> None:
    episodes = [Episode(i, "abc"[i % 3]) for i in range(6)]
    retained, held_out = split(episodes)
    assert {one.instruction for one in retained} == {one.instruction for one in held_out} == {"a", "b", "c"}


def test_different_instructions_are_split_as_one_group() -> None:
    retained, held_out = split([Episode(i, f"say {i}") for i in range(15)])
    assert (len(retained), len(held_out)) == (10, 5)


def test_one_episode_cannot_be_split() -> None:
    with pytest.raises(CalibrationError, match="at least 2 episodes"):
        split([Episode(0, "a")])


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(1, 400))
def test_as_many_steps_as_asked_for_are_spread_over_the_episodes(lengths: list[int], samples: int) -> None:
    steps = evenly_spaced(lengths, samples)
    assert len(steps) == len(lengths)
    assert sum(map(len, steps)) == min(samples, sum(lengths))
    assert all(0 <= step < length for chosen, length in zip(steps, lengths, strict=True) for step in chosen)


def test_steps_are_evenly_apart() -> None:
    assert evenly_spaced([10, 10], 4) == ((0, 6), (3, 9))
