"""Logits -> the next token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import ContractError

TOP_K_START = 64  # tokens that are put in order first; where they are not enough, `MORE` times as many
MORE = 32


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is picked: the likeliest one at temperature 0, else one by chance.

    Attributes:
        temperature: divides the logits; over 1 makes unlikely words likelier.
        top_p: only the likeliest tokens, which together have this probability, are picked from.
        seed: the same seed, prompt and engine pick the same tokens.

    Raises:
        ContractError: a value that means nothing.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        temperature, top_p = number("temperature", self.temperature), number("top_p", self.top_p)
        if not temperature >= 0:
            raise ContractError(f"temperature: expected a number from 0 on, got {temperature!r}; 0 is greedy")
        if not 0 < top_p <= 1:
            raise ContractError(f"top_p: expected a number over 0 and up to 1, got {top_p!r}; 1 takes all tokens")
        object.__setattr__(self, "temperature", temperature)
        object.__setattr__(self, "top_p", top_p)
        object.__setattr__(self, "seed", check_integer("seed", self.seed, 0))


def number(name: str, value: object) -> float:
    """`value` as a float, also where it is one of NumPy's. Raises ContractError, also for NaN and infinity."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ContractError(f"{name}: expected a finite number, got {value!r:.80}")
    return float(value)


def check_integer(name: str, value: object, least: int) -> int:
    """`value` as an int, also where it is one of NumPy's. Raises ContractError."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ContractError(f"{name}: expected a whole number from {least} on, got {value!r:.80}")
    return int(value)


class Sampler:
    """Picks the tokens of one answer."""

    def __init__(self, sampling: Sampling) -> None:
        self._how = sampling
        self._random = np.random.default_rng(sampling.seed)

    def pick(self, logits: NDArray[np.float32]) -> int:
        """One token id for finite logits (V,)."""
        if self._how.temperature == 0:
            return int(np.argmax(logits))
        probabilities = _shares(logits.astype(np.float64), self._how.temperature)
        total, top_p, chance = float(probabilities.sum()), self._how.top_p, self._random.random()
        if top_p == 1:
            tokens, sums = _most_probable(probabilities, chance * total)
            aim, count = chance * total, len(tokens)
        else:
            tokens, sums = _most_probable(probabilities, top_p * total)
            # The first token that reaches top_p is still taken; rounding must never leave none.
            count = min(int(np.searchsorted(sums, top_p * total)) + 1, len(tokens))
            aim = chance * sums[count - 1]
        place = int(np.searchsorted(sums[:count], aim, side="right"))
        return int(tokens[min(place, count - 1)])


def _shares(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """How likely each token is, the likeliest 1: it cannot overflow, for the largest exponent is 0."""
    with np.errstate(over="ignore"):  # a difference over a tiny temperature is -inf, whose share is 0
        probabilities: NDArray[np.float64] = np.exp((logits - logits.max()) / temperature)
    return probabilities


def _most_probable(probabilities: NDArray[np.float64], enough: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(tokens, likeliest first, of equal ones the lower id first; their running sums) until a sum is over `enough`.

    The beginning of what sorting all of a large vocabulary would give, at a fraction of its time; tokens that cannot
    be picked at all are never among them.
    """
    count = TOP_K_START
    while True:
        if count < len(probabilities):
            least = np.partition(probabilities, len(probabilities) - count)[len(probabilities) - count]
            # All that are as likely as the last of them.
            tokens = np.flatnonzero((probabilities >= least) & (probabilities > 0))
        else:
            tokens = np.flatnonzero(probabilities > 0)
        tokens = tokens[np.argsort(-probabilities[tokens], kind="stable")]
        sums = np.cumsum(probabilities[tokens])
        if sums[-1] > enough or count >= len(probabilities):
            return tokens, sums
        count *= MORE
