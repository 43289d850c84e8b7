"""The keys and values of what a decoder has read: static buffers, written in place, cut back and read on.

One slot is one token. A slot has a cache key: anything hashable that is equal exactly where the token (an id, or
one feature of one picture) is the same.
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
        bidirectional: length of the prefix with bidirectional attention, 0 where all is causal.
        cross_attention: keys and values of the encoder; empty in decoders without cross-attention.
    """

    def __init__(self, cache: CacheSpec) -> None:
        shape = (1, cache.slots, cache.heads, cache.head_dim)
        self._cache = cache
        self._buffers = [np.zeros(shape, np.float32) for _ in range(2 * cache.layers)]  # keys, then values
        self._symbols: list[Hashable] = []
        self._written = 0  # slots that were ever written: the rest of the memory was never touched
        self.bidirectional = 0
        self.cross_attention = NOTHING

    @property
    def length(self) -> int:
        """How many slots hold something."""
        return len(self._symbols)

    @property
    def room(self) -> int:
        """How many slots are free."""
        return self._cache.slots - self.length

    @property
    def padded_length(self) -> int:
        """`length` rounded up to a multiple of `step`, at least one step: the past that an engine gets."""
        step = self._cache.step
        return max(step, -(-self.length // step) * step)

    def past(self) -> list[NDArray[np.float32]]:
        """The keys of every layer, then the values: views (1, padded_length, heads, head_dim), free slots too."""
        return [buffer[:, : self.padded_length] for buffer in self._buffers]

    def match_prefix(self, cache_keys: CacheKeys, bidirectional: bool) -> int:
        """Cuts the cache back to the longest prefix it shares with `cache_keys`; returns its length.

        The prompt's last token is never reused: its run gives the next logits. With `bidirectional` attention only an
        equal prompt can be reused, for each of its keys depends on all tokens.
        """
        if bidirectional or self.bidirectional:
            same = (
                bidirectional
                and self.bidirectional == len(cache_keys)
                and self._symbols[: self.bidirectional] == list(cache_keys)
            )
            matched = len(cache_keys) - 1 if same else 0
        else:
            matched = _common(self._symbols, cache_keys[:-1])
        self.cut(matched)
        self.bidirectional = len(cache_keys) if bidirectional else 0
        return matched

    def cut(self, length: int) -> None:
        """Forget every slot from `length` on."""
        del self._symbols[length:]

    def append(self, cache_keys: CacheKeys, new: Sequence[NDArray[np.float32]]) -> None:
        """Write what a run made of `cache_keys`: the keys of every layer, then the values, (1, Q, heads, head_dim)."""
        begin, end = self.length, self.length + len(cache_keys)
        for buffer, values in zip(self._buffers, new, strict=True):
            buffer[:, begin:end] = values
        self._symbols.extend(cache_keys)
        self._written = max(self._written, end)

    def clear(self) -> None:
        """Forget everything, and leave no trace of it in the buffers."""
        self.cut(0)
        self.bidirectional, self.cross_attention = 0, NOTHING
        for buffer in self._buffers:
            buffer[:, : self._written] = 0.0
        self._written = 0

    def mask(self, count: int, window: int | None) -> NDArray[np.float32]:
        """The additive attention mask of `count` new tokens: (1, 1, count, padded_length + count).

        Causal, over the last `window` tokens (itself among them) if there is one; bidirectional over the
        bidirectional prefix.
        """
        old, padded = self.length, self.padded_length
        slots = np.concatenate([np.arange(padded), old + np.arange(count)])  # (K,) the place of each key
        there = np.concatenate([np.arange(padded) < old, np.ones(count, np.bool_)])
        queries = (old + np.arange(count))[:, None]
        visible = slots <= queries
        if window is not None:
            visible &= queries - slots < window
        visible |= (slots < self.bidirectional) & (queries < self.bidirectional)
        return np.where(visible & there, np.float32(0.0), np.float32(HIDDEN))[None, None]


def _common(one: CacheKeys, other: CacheKeys) -> int:
    """The length of what both begin with."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)
