"""The `dual` driver: a picture and texts, encoded apart, compared by cosine.

Stages (see `manifest.DualArgs`): vision per picture, text per text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import BundleError, NonFiniteError
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest.schema import DualArgs, Manifest, StageSpec

TEXTS_KEPT = 4096  # embeddings of a few kilobytes each: every label set that people use, and a bounded memory
PICTURES_KEPT = 4  # the cameras of a robot, asked in turn

Embedding = NDArray[np.float32]  # (D,), of length 1
Words = tuple[Value, Value]  # ids and mask of a text


def text_values(text: str, encode: Callable[[str], tuple[NDArray[np.int64], NDArray[np.float32]]]) -> Words:
    """Ids and mask of `text`; `encode` makes both, once, when the first of them is needed."""
    encoded = cache(lambda: encode(text))
    return Value(("ids", text), lambda: encoded()[0]), Value(("mask", text), lambda: encoded()[1])


class DualDriver:
    """Host code around the stages of one bundle; shared, holds no state."""

    def __init__(self, manifest: Manifest, graph: Graph) -> None:
        """Raises BundleError when the ports of the stages do not fit the driver."""
        self._args = manifest.loop(DualArgs)
        self._graph = graph
        vision, text = manifest.stages[self._args.vision], manifest.stages[self._args.text]
        self._pixels = _ports(vision, self._args.vision, ("pixels",))["pixels"]
        self._text = _ports(text, self._args.text, ("ids", "mask") if len(text.inputs) == 2 else ("ids",))
        sizes = {name: _width(manifest.stages[name], name) for name in (self._args.vision, self._args.text)}
        if len(set(sizes.values())) != 1:
            raise BundleError(
                f"the dual driver expected embeddings of one size from both stages, got {sizes}; export it again"
            )

    def memory(self) -> Memory:
        """What one retriever keeps: many texts, a few pictures."""
        return Memory({self._args.text: TEXTS_KEPT, self._args.vision: PICTURES_KEPT})

    def embed_image(self, pixels: Value, memory: Memory) -> Embedding:
        """The unit vector of one prepared picture; one seen lately is not run again. Raises NonFiniteError."""
        outputs = self._graph.run(self._args.vision, {self._pixels: pixels}, memory)
        return unit(self._args.vision, next(iter(outputs.values())).array)

    def embed_text(self, ids: Value, mask: Value, memory: Memory) -> Embedding:
        """The unit vector of one text; a text seen lately is not run again. Raises NonFiniteError."""
        by_kind = {"ids": ids, "mask": mask}
        outputs = self._graph.run(self._args.text, {port: by_kind[kind] for kind, port in self._text.items()}, memory)
        return unit(self._args.text, next(iter(outputs.values())).array)

    def logits(self, pictures: Iterable[Value], texts: Sequence[Words], memory: Memory) -> NDArray[np.float32]:
        """`scale * cosine + bias` for every picture and every text: (I, T)."""
        text_vectors = [self.embed_text(*words, memory) for words in texts]  # first: a bad text is found at little cost
        image_vectors = [self.embed_image(pixels, memory) for pixels in pictures]
        cosines = np.stack(image_vectors) @ np.stack(text_vectors).T
        result: NDArray[np.float32] = (cosines * np.float32(self._args.scale) + np.float32(self._args.bias)).astype(
            np.float32
        )
        return result

    def scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (I, T): over the texts of a picture, or of each pair by itself, as the manifest says."""
        if self._args.scores == "softmax":
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
            return probabilities
        each: NDArray[np.float32] = np.exp(-np.logaddexp(np.float32(0), -logits))  # never overflows
        return each


def unit(stage: str, output: NDArray[np.float32]) -> Embedding:
    """The one vector of an output, made of length 1. Raises NonFiniteError."""
    vector = output[0]
    length = np.sqrt((vector * vector).sum(dtype=np.float32))
    if not np.isfinite(length) or length == 0:
        raise NonFiniteError(
            f"stage {stage!r}: expected a finite embedding other than 0, got one of length {length}; "
            "the picture or the text makes the model overflow: try an fp32 bundle"
        )
    result: Embedding = vector / length
    return result


def _ports(stage: StageSpec, name: str, kinds: tuple[str, ...]) -> dict[str, str]:
    """kind -> port, for a stage with exactly these kinds of inputs and one embedding as output."""
    by_kind = {port.kind: port.name for port in stage.inputs}
    if set(by_kind) != set(kinds) or len(stage.inputs) != len(kinds) or len(stage.outputs) != 1:
        ports = [f"{port.name}: {port.kind}" for port in (*stage.inputs, *stage.outputs)]
        raise BundleError(
            f"stage {name!r}: the dual driver expected inputs of the kinds {list(kinds)} and one output, got {ports}; "
            "export the bundle again"
        )
    return {kind: by_kind[kind] for kind in kinds}  # type: ignore[index]


def _width(stage: StageSpec, name: str) -> int:
    shape = stage.outputs[0].shape
    if len(shape) != 2 or shape[0] != 1 or not isinstance(shape[1], int):
        raise BundleError(
            f"stage {name!r}: the dual driver expected one embedding (1, D), got {shape}; export the bundle again"
        )
    return shape[1]
