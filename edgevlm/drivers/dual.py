"""The `dual` driver: a picture and texts, encoded apart, compared by cosine.

Stages (see `manifest.DualArgs`): vision per picture, text per text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers.numerics import sigmoid, softmax, unit
from edgevlm.drivers.ports import StagePorts, TextStage, Words, check_same_width, embedding_width
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest.drivers import DualArgs
from edgevlm.manifest.stages import StageSpec

TEXTS_KEPT = 4096  # embeddings of a few kilobytes each: every label set that people use, and a bounded memory
PICTURES_KEPT = 4  # the cameras of a robot, asked in turn

Embedding = NDArray[np.float32]  # (D,), of length 1


class DualDriver:
    """Host code around the stages of one bundle; shared, holds no state."""

    def __init__(self, args: DualArgs, stages: Mapping[str, StageSpec], graph: Graph) -> None:
        """Raises BundleError when the ports of the stages do not fit the driver."""
        self._args, self._graph = args, graph
        vision, text = (StagePorts("dual", name, stages) for name in (args.vision, args.text))
        self._pixels, self._text = vision.pixels(), TextStage(text, graph)
        if len(vision.outputs) != 1:
            raise vision.misfit("pixels, and one embedding as output")
        check_same_width("dual", {args.vision: embedding_width(vision), args.text: self._text.width})

    def memory(self) -> Memory:
        """What one retriever keeps: many texts, a few pictures."""
        return Memory({self._args.text: TEXTS_KEPT, self._args.vision: PICTURES_KEPT})

    def embed_image(self, pixels: Value, memory: Memory) -> Embedding:
        """The unit vector of one prepared picture; one seen lately is not run again. Raises NonFiniteError."""
        outputs = self._graph.run(self._args.vision, {self._pixels: pixels}, memory)
        return unit(self._args.vision, next(iter(outputs.values())).array[0])

    def embed_text(self, ids: Value, mask: Value, memory: Memory) -> Embedding:
        """The unit vector of one text; a text seen lately is not run again. Raises NonFiniteError."""
        return unit(self._args.text, self._text.embed((ids, mask), memory))

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
        return softmax(logits) if self._args.scores == "softmax" else sigmoid(logits)
