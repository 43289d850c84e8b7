"""Picking the next token: greedy, by temperature, from the likeliest only, and the same again for a seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevlm.drivers import Sampler, Sampling
from edgevlm.errors import ContractError

LOGITS = np.log(np.array([0.1, 0.5, 0.15, 0.25], np.float32))
finite = st.floats(-1e4, 1e4, width=32)


def picks(logits: NDArray[np.float32], count: int = 4000, **how: float) -> Counter[int]:
    sampler = Sampler(Sampling(**how))  # type: ignore[arg-type]
    return Counter(sampler.pick(logits) for _ in range(count))


def test_takes_the_likeliest_at_temperature_0_whatever_the_seed() -> None:
    assert {Sampler(Sampling(seed=seed)).pick(LOGITS) for seed in range(20)} == {1}


def test_picks_each_token_as_often_as_it_is_likely() -> None:
    result = picks(LOGITS, temperature=1.0)
    shares = np.array([result[token] for token in range(4)]) / 4000
    np.testing.assert_allclose(shares, [0.1, 0.5, 0.15, 0.25], atol=0.03)  # 4 standard deviations


def test_a_high_temperature_levels_and_a_low_one_sharpens() -> None:
    assert picks(LOGITS, temperature=5.0)[0] > 600 > 450 > picks(LOGITS, temperature=1.0)[0]
    assert picks(LOGITS, temperature=0.05) == {1: 4000}


@pytest.mark.parametrize(
    ("top_p", "left"), [(0.01, {1}), (0.4, {1}), (0.6, {1, 3}), (0.8, {1, 3, 2}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float, left: set[int]) -> None:
    assert set(picks(LOGITS, temperature=1.0, top_p=top_p)) == left


def test_a_seed_picks_the_same_again_and_another_one_others() -> None:
    def answer(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.pick(LOGITS) for _ in range(64)]

    assert answer(3) == answer(3) != answer(4)


@given(
    logits=st.lists(finite, min_size=1, max_size=50),
    temperature=st.floats(1e-6, 1e6),
    top_p=st.floats(1e-9, 1.0),
    seed=st.integers(0, 2**32),
)
def test_always_picks_a_token_that_is_there(logits: list[float], temperature: float, top_p: float, seed: int) -> None:
    array = np.array(logits, np.float32)
    token = Sampler(Sampling(temperature=temperature, top_p=top_p, seed=seed)).pick(array)
    assert 0 <= token < len(logits)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": np.nan},
        {"temperature": np.inf},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
    ],
)
def test_values_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ContractError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]


def sorted_pick(logits: NDArray[np.float32], sampling: Sampling) -> int:
    """The definition: all tokens in order of their shares, of equal ones the lower id first; then one by chance."""
    scaled = (logits.astype(np.float64) - np.float64(logits.max())) / sampling.temperature
    shares = np.exp(scaled)
    chance = np.random.default_rng(sampling.seed).random()
    order = [token for token in np.argsort(-shares, kind="stable") if shares[token] > 0]
    sums = np.cumsum(shares[order])
    reach = sampling.top_p * shares.sum()
    count = len(order) if sampling.top_p == 1 else min(int(np.searchsorted(sums, reach)) + 1, len(order))
    aim = chance * (shares.sum() if sampling.top_p == 1 else sums[count - 1])
    return int(order[min(int(np.searchsorted(sums[:count], aim, side="right")), count - 1)])


@given(
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.0, 0.1, 3.0, 30.0]),
    kinds=st.sampled_from([2, 50, 10**6]),
    temperature=st.floats(0.01, 100.0),
    top_p=st.one_of(st.just(1.0), st.floats(1e-6, 1.0)),
    words=st.sampled_from([1, 63, 64, 65, 700, 5000]),
)
def test_picks_what_sorting_the_full_vocabulary_picks(
    seed: int, spread: float, kinds: int, temperature: float, top_p: float, words: int
) -> None:
    random = np.random.default_rng(seed)
    logits = (random.normal(size=kinds)[random.integers(0, kinds, words)] * spread).astype(np.float32)  # some are equal
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    assert Sampler(sampling).pick(logits) == sorted_pick(logits, sampling)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("temperature", "0"), ("temperature", None), ("top_p", True), ("seed", None), ("seed", 1.0), ("seed", "1")],
)
def test_values_of_another_type_are_refused(name: str, wrong: object) -> None:
    with pytest.raises(ContractError, match=f"{name}: expected"):
        Sampling(**{name: wrong})  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers() -> None:
    sampling = Sampling(temperature=np.float32(0.5), top_p=np.float64(1), seed=np.int64(3))  # type: ignore[arg-type]
    assert [type(value) for value in (sampling.temperature, sampling.top_p, sampling.seed)] == [float, float, int]
