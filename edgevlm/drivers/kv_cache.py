"""The keys and values of what a decoder has read: static buffers, written in place, cut back and read on.

One slot is one token. What a slot holds is told by a symbol: anything hashable that is equal exactly where the token
(an id, or one feature of one picture) is the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.drivers import CacheSpec

CacheKeys = Sequence[Hashable]
HIDDEN = -30_000.0  # what a mask adds where nothing may be seen: exp() of it is 0, and half precision can hold it


class CrossAttentionState(NamedTuple):
    """What a decoder looks at besides its own tokens: port -> array, equal where the version is."""

    version: Hashable
    arrays: Mapping[str, NDArray[Any]]


NOTHING = CrossAttentionState((), {})


class KVCache:
    """One conversation's state. Not for two threads at once.

    Attributes:
        whole: how many of the first slots saw each other whole, 0 where all is causal.
        beside: what is looked at by the tokens held; nothing in loops where all is in one row.
    """

    def __init__(self, cache: CacheSpec) -> None:
        shape = (1, cache.slots, cache.heads, cache.head_dim)
        self._cache = cache
        self._buffers = [np.zeros(shape, np.float32) for _ in range(2 * cache.layers)]  # keys, then values
        self._symbols: list[Hashable] = []
        self._written = 0  # slots that were ever written: the rest of the memory was never touched
        self.whole = 0
        self.beside = NOTHING

    @property
    def length(self) -> int:
        """How many slots hold something."""
        return len(self._symbols)

    @property
    def room(self) -> int:
        """How many slots are free."""
        return self._cache.slots - self.length

    @property
    def shown(self) -> int:
        """How many slots an engine gets: `length` in whole steps, and never none."""
        step = self._cache.step
        return max(step, -(-self.length // step) * step)

    def past(self) -> list[NDArray[np.float32]]:
        """The keys of every layer, then the values: contiguous views (1, shown, heads, head_dim), free slots too."""
        return [buffer[:, : self.shown] for buffer in self._buffers]

    def match_prefix(self, cache_keys: CacheKeys, whole: bool) -> int:
        """Cut back to what a prompt of `symbols` has in common with what is held; how many slots that is.

        The prompt's last token is never among them: it is what is read for the next word. Where the prompt sees itself
        `whole`, an other prompt has nothing in common, for each of its keys depends on all of it.
        """
        if whole or self.whole:
            same = whole and self.whole == len(cache_keys) and self._symbols[: self.whole] == list(cache_keys)
            kept = len(cache_keys) - 1 if same else 0
        else:
            kept = _common(self._symbols, cache_keys[:-1])
        self.cut(kept)
        self.whole = len(cache_keys) if whole else 0
        return kept

    def cut(self, length: int) -> None:
        """Forget every slot from `length` on."""
        del self._symbols[length:]

    def append(self, cache_keys: CacheKeys, new: Sequence[NDArray[np.float32]]) -> None:
        """Write what a run made of `symbols`: the keys of every layer, then the values, (1, Q, heads, head_dim)."""
        begin, end = self.length, self.length + len(cache_keys)
        for buffer, values in zip(self._buffers, new, strict=True):
            buffer[:, begin:end] = values
        self._symbols.extend(cache_keys)
        self._written = max(self._written, end)

    def clear(self) -> None:
        """Forget everything, and leave no trace of it in the buffers."""
        self.cut(0)
        self.whole, self.beside = 0, NOTHING
        for buffer in self._buffers:
            buffer[:, : self._written] = 0.0
        self._written = 0

    def mask(self, count: int, window: int | None) -> NDArray[np.float32]:
        """What `count` new tokens may see of the shown slots and of each other: (1, 1, count, shown + count).

        A token sees itself and what came before it, of that only the last `window` (itself among them) if one is
        given; and all of a prefix that sees itself whole, if it is in it.
        """
        old, shown = self.length, self.shown
        slots = np.concatenate([np.arange(shown), old + np.arange(count)])  # (K,) the place of each key
        there = np.concatenate([np.arange(shown) < old, np.ones(count, np.bool_)])
        queries = (old + np.arange(count))[:, None]
        seen = slots <= queries
        if window is not None:
            seen &= queries - slots < window
        seen |= (slots < self.whole) & (queries < self.whole)
        return np.where(seen & there, np.float32(0.0), np.float32(HIDDEN))[None, None]


def _common(one: CacheKeys, other: CacheKeys) -> int:
    """The length of what both begin with."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)
