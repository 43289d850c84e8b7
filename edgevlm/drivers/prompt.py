"""What drivers that say one token after the other have in common: the prompt they read, and how they are used."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers.kv_cache import KVCache
from edgevlm.graph import Memory, Value

Logits = NDArray[np.float32]  # (V,)


class ImageToken(NamedTuple):
    """What stands in a prompt at the place of one image token."""

    tile: Hashable  # the picture's digest and the tile's number: equal where the pixels are
    place: int  # of the feature among those of the tile


@dataclass(frozen=True)
class Prompt:
    """What a driver is to read.

    Attributes:
        cache_keys: what the decoder reads: an id, or an `ImageToken`, for each token.
        tiles: the pixels (1, 3, S, S) of every tile that the keys name, or that is looked at, made where needed.
        question: ids that an encoder reads beside the picture, where there is one.
    """

    cache_keys: tuple[int | ImageToken, ...]
    tiles: Mapping[Hashable, Value] = field(default_factory=dict)
    question: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """All that is read before the first word is said."""
        return len(self.cache_keys) + len(self.question)


class ChatDriver(Protocol):
    """Host code around the stages of one chat bundle; shared, holds no state."""

    @property
    def vocabulary(self) -> int:
        """How many ids a prompt may use."""
        ...

    def memory(self) -> Memory:
        """What one session keeps beside the keys and values."""
        ...

    def cache(self) -> KVCache:
        """The empty state of one session."""
        ...

    def read(
        self, prompt: Prompt, cache: KVCache, memory: Memory, before_run: Callable[[], None] = lambda: None
    ) -> tuple[Logits, int]:
        """(what is likely to follow `prompt`, how many of its tokens had been read already).

        After an error, also one that `before_run` raises before any run of an engine, the cache holds the part that
        was read, and nothing else.

        Raises:
            NonFiniteError: the model's output is not finite.
            EngineError: an engine failed.
        """
        ...

    def step(self, token: int, cache: KVCache, memory: Memory) -> Logits:
        """What is likely to follow `token`, said after all that `cache` holds. Raises as `read` does."""
        ...
