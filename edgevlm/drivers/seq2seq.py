"""The `seq2seq` driver: a picture, and a question or the beginning of an answer -> the answer, token by token.

Stages (see `Seq2SeqArgs`): vision per picture, encoder (if there is one) per picture and question, decoder per
chunk of what is begun with and per new token. What was read before is read on only under the same picture and question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers.kv_cache import CrossAttentionState, KVCache
from edgevlm.drivers.kv_decoder import ChatDriver, ImageToken, Logits, Prompt
from edgevlm.errors import BundleError
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest.drivers import Seq2SeqArgs
from edgevlm.manifest.stages import StageSpec

KEPT_BYTES = 64 << 20  # of what was made for the pictures, and for the questions, met last ..
KEPT = 4  # .. but of so many at least: the cameras of a robot, asked in turn


class Seq2SeqDriver(ChatDriver):
    """See `ChatDriver`."""

    def __init__(
        self, args: Seq2SeqArgs, stages: Mapping[str, StageSpec], graph: Graph, embeddings: NDArray[Any]
    ) -> None:
        """Raises BundleError when the embeddings (V, H) do not fit the stages."""
        super().__init__(args, stages, graph, embeddings)
        self._args = args
        if max(self._args.begin) >= len(embeddings):
            raise BundleError(
                f"embeddings: expected a row for each of the ids that an answer begins with, {self._args.begin}, got "
                f"{len(embeddings)}; export the bundle again"
            )

    def memory(self) -> Memory:
        """What one session keeps beside the keys and values: what it made of the pictures and questions it met last."""
        names = [name for name in (self._args.vision, self._args.encoder) if name is not None]
        return Memory({name: max(KEPT, KEPT_BYTES // _bytes(self._stages[name])) for name in names})

    def read(
        self, prompt: Prompt, cache: KVCache, memory: Memory, before_run: Callable[[], None] = lambda: None
    ) -> tuple[Logits, int]:
        """(what is likely to follow `prompt`, how many of its tokens were read already); see `ChatDriver`."""
        cross_attention, known = self._looked_at(prompt, memory, before_run)
        # A picture is not in the row.
        ids = [key for key in prompt.cache_keys if not isinstance(key, ImageToken)]
        cache_keys = [(cross_attention.version, token) for token in ids]
        reused, cache.cross_attention = cache.match_prefix(cache_keys, bidirectional=False), cross_attention
        longest = self._args.longest_run
        logits: Logits | None = None
        for begin in range(reused, len(ids), longest):
            before_run()
            run = slice(begin, begin + longest)
            logits = self._decoder.run(cache_keys[run], self._decoder.vectors(ids[run]), cache, memory)
        assert logits is not None  # `reuse` leaves one token at least
        return logits, reused + known

    def step(self, token: int, cache: KVCache, memory: Memory) -> Logits:
        """What is likely to follow `token`, said after all that `cache` holds. Raises as `read` does."""
        return self._decoder.run(
            [(cache.cross_attention.version, token)], self._decoder.vectors([token]), cache, memory
        )

    def _looked_at(
        self, prompt: Prompt, memory: Memory, before_run: Callable[[], None]
    ) -> tuple[CrossAttentionState, int]:
        """(what the decoder looks at, how many tokens of the question were not read for it again)."""
        (pixels,) = prompt.tiles.values()
        outputs = self._run(self._args.vision, {self._pixels: pixels}, memory, before_run)
        known = 0
        if self._args.encoder is not None:
            runs = memory.runs.get(self._args.encoder, 0)
            ids = Value(prompt.question, np.array([prompt.question], np.int64))
            ports = self._stages[self._args.encoder].inputs
            inputs = {port.name: ids if port.kind == "ids" else outputs[port.name] for port in ports}
            outputs = self._run(self._args.encoder, inputs, memory, before_run)
            known = len(prompt.question) if memory.runs[self._args.encoder] == runs else 0
        version = (pixels.version, prompt.question)
        return CrossAttentionState(version, {name: value.array for name, value in outputs.items()}), known

    def _run(
        self, stage: str, inputs: Mapping[str, Value], memory: Memory, before_run: Callable[[], None]
    ) -> dict[str, Value]:
        """What a stage makes; of what it met lately, it is not run again."""
        before_run()
        return self._graph.run(stage, inputs, memory)


def _bytes(stage: StageSpec) -> int:
    """Of all that a stage makes in one run, at most."""
    sizes = [[stage.dynamic[d][2] if isinstance(d, str) else d for d in port.shape] for port in stage.outputs]
    return 4 * sum(int(np.prod(size)) for size in sizes)
