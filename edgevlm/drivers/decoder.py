"""The `decoder` driver: words and pictures in one row of vectors, continued token by token.

Stages (see `loops.DecoderArgs`): vision per tile of a picture, decoder per chunk of the prompt and per new token.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers.kv import KeyValues
from edgevlm.errors import BundleError, NonFiniteError
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest import Manifest, Port, PortKind

FEATURES_KEPT_BYTES = 64 << 20  # of the tiles met last, of one tile at least

Logits = NDArray[np.float32]  # (V,)


class Feature(NamedTuple):
    """What stands in a prompt at the place of one image token."""

    tile: Hashable  # the picture's digest and the tile's number: equal where the pixels are
    place: int  # of the feature among those of the tile


@dataclass(frozen=True)
class Prompt:
    """What a decoder is to read.

    Attributes:
        symbols: an id, or a `Feature`, for each token.
        tiles: the pixels (1, 3, S, S) of every tile that the symbols name, made where they are needed.
    """

    symbols: tuple[int | Feature, ...]
    tiles: Mapping[Hashable, Value] = field(default_factory=dict)


class DecoderDriver:
    """Host code around the stages of one bundle; shared, holds no state."""

    def __init__(self, manifest: Manifest, graph: Graph, embeddings: NDArray[Any]) -> None:
        """Raises BundleError when the embeddings (V, H) do not fit the stages."""
        _, _, self._args = manifest.chat()
        self._graph, self._embeddings = graph, embeddings
        stage, vision = manifest.stages[self._args.decoder], manifest.stages[self._args.vision]
        self._pixels, self._features = vision.inputs[0].name, vision.outputs[0]
        self._in, self._out = _names(stage.inputs), _names(stage.outputs)
        vocabulary = next(port for port in stage.outputs if port.kind == "logits").shape[1]
        rows, width = embeddings.shape if embeddings.ndim == 2 else (0, 0)
        if width != self._features.shape[2] or embeddings.dtype not in (np.float32, np.float16):
            raise BundleError(
                f"embeddings: expected float32 or float16 (V, {self._features.shape[2]}), got {embeddings.dtype} "
                f"{embeddings.shape}; export the bundle again"
            )
        if isinstance(vocabulary, int) and max(vocabulary, *self._args.stop_ids) > rows:
            raise BundleError(
                f"embeddings: expected a row for each of the {vocabulary} tokens that the decoder may say and of the "
                f"stop_ids {self._args.stop_ids}, got {rows}; export the bundle again"
            )

    @property
    def vocabulary(self) -> int:
        """How many ids a prompt may use."""
        return len(self._embeddings)

    def memory(self) -> Memory:
        """What one session keeps beside the keys and values: features of the tiles it met last."""
        size = 4 * int(np.prod([d for d in self._features.shape if isinstance(d, int)]))
        return Memory({self._args.vision: max(1, FEATURES_KEPT_BYTES // size)})

    def cache(self) -> KeyValues:
        """The empty state of one session."""
        return KeyValues(self._args.cache)

    def read(
        self, prompt: Prompt, cache: KeyValues, memory: Memory, before_run: Callable[[], None] = lambda: None
    ) -> tuple[Logits, int]:
        """(what is likely to follow `prompt`, how many of its tokens `cache` had already).

        After an error, also one that `before_run` raises before any run of an engine, the cache holds the part that
        was read, and nothing else.

        Raises:
            NonFiniteError: the model's output is not finite.
            BackendError: an engine failed.
        """
        whole = self._args.prefix == "bidirectional"
        reused = cache.reuse(prompt.symbols, whole)
        rest = prompt.symbols[reused:]
        vectors = self._vectors(rest, prompt.tiles, memory, before_run)
        longest = len(rest) if whole else self._args.longest_run
        logits: Logits | None = None
        for begin in range(0, len(rest), longest):
            before_run()
            run = slice(begin, begin + longest)
            logits = self._run(rest[run], vectors[:, run], cache, memory)
        assert logits is not None  # `reuse` leaves one token at least
        return logits, reused

    def step(self, token: int, cache: KeyValues, memory: Memory) -> Logits:
        """What is likely to follow `token`, said after all that `cache` holds. Raises as `read` does."""
        return self._run([token], self._vectors([token], {}, memory, lambda: None), cache, memory)

    def _vectors(
        self,
        symbols: Sequence[int | Feature],
        tiles: Mapping[Hashable, Value],
        memory: Memory,
        before_run: Callable[[], None],
    ) -> NDArray[np.float32]:
        """The rows that the decoder's first layer reads: (1, N, H)."""
        ids = [0 if isinstance(symbol, Feature) else symbol for symbol in symbols]
        vectors = np.asarray(self._embeddings[ids], np.float32)
        at = 0
        for tile, group in groupby(symbols, lambda symbol: symbol.tile if isinstance(symbol, Feature) else None):
            members = list(group)
            if tile is not None:
                before_run()
                places = [symbol.place for symbol in members if isinstance(symbol, Feature)]
                vectors[at : at + len(members)] = self._seen(tiles[tile], memory)[places]
            at += len(members)
        return vectors[None]

    def _seen(self, pixels: Value, memory: Memory) -> NDArray[np.float32]:
        """The features (T, H) of one tile; of one seen lately, the stage is not run again."""
        outputs = self._graph.run(self._args.vision, {self._pixels: pixels}, memory)
        features: NDArray[np.float32] = outputs[self._features.name].array[0]
        if not np.isfinite(features).all():
            raise _not_finite(self._args.vision, "features")
        return features

    def _run(
        self, symbols: Sequence[int | Feature], embeds: NDArray[np.float32], cache: KeyValues, memory: Memory
    ) -> Logits:
        """One run of the decoder: the logits after the last of `symbols`, whose keys and values go into `cache`."""
        count, begin = len(symbols), self._args.first_position + cache.length
        arrays: dict[str, NDArray[Any]] = {
            self._in["embeds"][0]: embeds,
            self._in["positions"][0]: np.arange(begin, begin + count, dtype=np.int64)[None],
            self._in["index"][0]: np.array([count - 1], np.int64),
        }
        arrays |= {port: cache.mask(count, window) for port, window in self._args.masks.items()}
        arrays |= zip((*self._in["past_key"], *self._in["past_value"]), cache.past(), strict=True)
        outputs = self._graph.run_state(self._args.decoder, arrays, memory)
        new = [outputs[name] for name in (*self._out["new_key"], *self._out["new_value"])]
        logits: Logits = outputs[self._out["logits"][0]][0]
        for what, values in (("logits", [logits]), ("keys and values", new)):
            if not all(np.isfinite(array).all() for array in values):
                raise _not_finite(self._args.decoder, what)
        cache.append(symbols, new)
        return logits


def _names(ports: Sequence[Port]) -> dict[PortKind, list[str]]:
    """kind -> its ports, in their order."""
    names: dict[PortKind, list[str]] = {}
    for port in ports:
        names.setdefault(port.kind, []).append(port.name)
    return names


def _not_finite(stage: str, what: str) -> NonFiniteError:
    return NonFiniteError(
        f"stage {stage!r}: expected finite {what}, got NaN or infinity; the picture or the text makes the model "
        "overflow: try an fp32 bundle"
    )
