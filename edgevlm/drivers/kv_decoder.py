"""What drivers share that say one token after the other: what they read, the stage `decoder`, how they are used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers.kv_cache import KVCache
from edgevlm.errors import BundleError
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest.drivers import KVDecoderSpec
from edgevlm.manifest.stages import Port, PortKind, StageSpec

Logits = NDArray[np.float32]  # (V,)


class ImageToken(NamedTuple):
    """What stands in a prompt at the place of one image token."""

    tile: Hashable  # the picture's digest and the tile's number: equal where the pixels are
    place: int  # of the feature among those of the tile


@dataclass(frozen=True)
class Prompt:
    """What a driver reads.

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


class KVDecoder:
    """One run at a time: new tokens in, logits out, their keys and values into the cache. Holds no state.

    Attributes:
        embeddings: (V, H) by token id.

    Raises:
        BundleError: the embeddings do not fit the stage.
    """

    def __init__(
        self, args: KVDecoderSpec, stages: Mapping[str, StageSpec], graph: Graph, embeddings: NDArray[Any]
    ) -> None:
        self._args, self._graph, self.embeddings = args, graph, embeddings
        stage = stages[args.decoder]
        self._in, self._out = _names(stage.inputs), _names(stage.outputs)
        expected = next(port for port in stage.inputs if port.kind == "embeds").shape[2]
        vocabulary = next(port for port in stage.outputs if port.kind == "logits").shape[1]
        rows, width = embeddings.shape if embeddings.ndim == 2 else (0, 0)
        if width != expected or embeddings.dtype not in (np.float32, np.float16):
            raise BundleError(
                f"embeddings: expected float32 or float16 (V, {expected}), got {embeddings.dtype} {embeddings.shape}; "
                "export the bundle again"
            )
        if isinstance(vocabulary, int) and max(vocabulary, *self._args.stop_ids) > rows:
            raise BundleError(
                f"embeddings: expected a row for each of the {vocabulary} tokens that the decoder may say and of the "
                f"stop_ids {self._args.stop_ids}, got {rows}; export the bundle again"
            )

    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """What the first layer reads of these tokens: (1, N, H)."""
        return np.asarray(self.embeddings[list(ids)], np.float32)[None]

    def run(
        self, cache_keys: Sequence[Hashable], embeds: NDArray[np.float32], cache: KVCache, memory: Memory
    ) -> Logits:
        """The logits after the last of `cache_keys`, whose keys and values go into `cache`.

        Raises:
            NonFiniteError: the model's output is not finite.
            EngineError: the engine failed.
        """
        count, begin = len(cache_keys), self._args.first_position + cache.length
        arrays: dict[str, NDArray[Any]] = {
            self._in["embeds"][0]: embeds,
            self._in["positions"][0]: np.arange(begin, begin + count, dtype=np.int64)[None],
            self._in["index"][0]: np.array([count - 1], np.int64),
        }
        arrays |= {port: cache.mask(count, window) for port, window in self._args.masks.items()}
        arrays |= zip((*self._in["past_key"], *self._in["past_value"]), cache.past(), strict=True)
        arrays |= cache.cross_attention.arrays
        outputs = self._graph.run_state(self._args.decoder, arrays, memory)
        new = [outputs[name] for name in (*self._out["new_key"], *self._out["new_value"])]
        logits: Logits = outputs[self._out["logits"][0]][0]
        cache.append(cache_keys, new)
        return logits


class ChatDriver(ABC):
    """Host code around the stages of one chat bundle; shared, holds no state.

    Raises:
        BundleError: the embeddings (V, H) do not fit the stages.
    """

    def __init__(
        self, args: KVDecoderSpec, stages: Mapping[str, StageSpec], graph: Graph, embeddings: NDArray[Any]
    ) -> None:
        self._cache, self._graph, self._stages = args.cache, graph, stages
        self._decoder = KVDecoder(args, stages, graph, embeddings)
        self._pixels = stages[args.vision].inputs[0].name

    @property
    def vocabulary(self) -> int:
        """How many ids a prompt may use."""
        return len(self._decoder.embeddings)

    def cache(self) -> KVCache:
        """The empty state of one session."""
        return KVCache(self._cache)

    @abstractmethod
    def memory(self) -> Memory:
        """What one session keeps beside the keys and values."""

    @abstractmethod
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

    @abstractmethod
    def step(self, token: int, cache: KVCache, memory: Memory) -> Logits:
        """What is likely to follow `token`, said after all that `cache` holds. Raises as `read` does."""


def _names(ports: Sequence[Port]) -> Mapping[PortKind, list[str]]:
    """kind -> its ports, in their order."""
    names: dict[PortKind, list[str]] = {}
    for port in ports:
        names.setdefault(port.kind, []).append(port.name)
    return names
