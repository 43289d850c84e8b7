"""The `decoder` driver: words and pictures in one row of vectors, continued token by token.

Stages (see `DecoderArgs`): vision per tile of a picture, decoder per chunk of the prompt and per new token.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers.kv_cache import KVCache
from edgevlm.drivers.kv_decoder import ChatDriver, ImageToken, Logits, Prompt
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest.drivers import DecoderArgs
from edgevlm.manifest.stages import StageSpec

FEATURES_KEPT_BYTES = 64 << 20  # of the tiles met last, of one tile at least


class DecoderDriver(ChatDriver):
    """See `ChatDriver`."""

    def __init__(
        self, args: DecoderArgs, stages: Mapping[str, StageSpec], graph: Graph, embeddings: NDArray[Any]
    ) -> None:
        """Raises BundleError when the embeddings (V, H) do not fit the stages."""
        super().__init__(args, stages, graph, embeddings)
        self._args, self._features = args, stages[args.vision].outputs[0]

    def memory(self) -> Memory:
        """What one session keeps beside the keys and values: features of the tiles it met last."""
        size = 4 * int(np.prod([d for d in self._features.shape if isinstance(d, int)]))
        return Memory({self._args.vision: max(1, FEATURES_KEPT_BYTES // size)})

    def read(
        self, prompt: Prompt, cache: KVCache, memory: Memory, before_run: Callable[[], None] = lambda: None
    ) -> tuple[Logits, int]:
        """(what is likely to follow `prompt`, how many of its tokens `cache` had already); see `ChatDriver`."""
        bidirectional = self._args.prefix == "bidirectional"
        reused = cache.match_prefix(prompt.cache_keys, bidirectional)
        rest = prompt.cache_keys[reused:]
        vectors = self._vectors(rest, prompt.tiles, memory, before_run)
        longest = len(rest) if bidirectional else self._args.longest_run
        logits: Logits | None = None
        for begin in range(0, len(rest), longest):
            before_run()
            run = slice(begin, begin + longest)
            logits = self._decoder.run(rest[run], vectors[:, run], cache, memory)
        assert logits is not None  # `reuse` leaves one token at least
        return logits, reused

    def step(self, token: int, cache: KVCache, memory: Memory) -> Logits:
        """What is likely to follow `token`, said after all that `cache` holds. Raises as `read` does."""
        return self._decoder.run([token], self._decoder.vectors([token]), cache, memory)

    def _vectors(
        self,
        cache_keys: Sequence[int | ImageToken],
        tiles: Mapping[Hashable, Value],
        memory: Memory,
        before_run: Callable[[], None],
    ) -> NDArray[np.float32]:
        """The rows that the decoder's first layer reads: (1, N, H)."""
        vectors = self._decoder.vectors([0 if isinstance(symbol, ImageToken) else symbol for symbol in cache_keys])
        at = 0
        for tile, group in groupby(cache_keys, lambda symbol: symbol.tile if isinstance(symbol, ImageToken) else None):
            members = list(group)
            if tile is not None:
                before_run()
                places = [symbol.place for symbol in members if isinstance(symbol, ImageToken)]
                vectors[0, at : at + len(members)] = self._image_features(tiles[tile], memory)[places]
            at += len(members)
        return vectors

    def _image_features(self, pixels: Value, memory: Memory) -> NDArray[np.float32]:
        """The features (T, H) of one tile; of one seen lately, the stage is not run again."""
        outputs = self._graph.run(self._args.vision, {self._pixels: pixels}, memory)
        features: NDArray[np.float32] = outputs[self._features.name].array[0]
        return features
