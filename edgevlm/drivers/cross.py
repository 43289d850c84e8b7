"""The `cross` driver: a picture, or features of its regions, and a text, read together by one head.

Stages (see `manifest.CrossArgs`): vision once per picture, head once per pair, text where texts are encoded alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers.dual import TEXTS_KEPT, Embedding
from edgevlm.drivers.numerics import sigmoid, unit
from edgevlm.drivers.ports import StagePorts, TextStage, Words, check_same_width, embedding_width
from edgevlm.errors import TaskError
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest.drivers import CrossArgs
from edgevlm.manifest.stages import Port, StageSpec

MATCHED = 2  # columns of `match`: no, yes
PICTURES_KEPT = 2  # two cameras, asked in turn; keys and values of a picture are large, 42 MB in published models

Looked = Mapping[str, Value]  # what the head looks at, by its port


class CrossDriver:
    """Host code around the stages of one bundle; shared, holds no state."""

    def __init__(self, args: CrossArgs, stages: Mapping[str, StageSpec], graph: Graph) -> None:
        """Raises BundleError when the ports of the stages do not fit the driver."""
        self._args, self._graph = args, graph
        head = StagePorts("cross", args.head, stages)
        self.columns = _columns(head, args)
        self._words = {port.kind: port.name for port in head.inputs if port.kind in ("ids", "mask")}
        self._looked = [port for port in head.inputs if port.name not in self._words.values()]
        if "ids" not in self._words or not self._looked:
            raise head.misfit("ids and something to look at")
        self._pixels, self._embedding, self._text = "", "", None
        widths: dict[str, int] = {}
        if args.vision is not None:
            vision = StagePorts("cross", args.vision, stages)
            self._pixels, self._embedding = _vision_ports(vision, self._looked)
            if self._embedding:
                widths[args.vision] = embedding_width(vision)
        elif [(port.kind, len(port.shape)) for port in self._looked] != [("features", 3)]:
            raise head.misfit("ids and features (1, R, V), where no stage makes what it looks at")
        if args.text is not None:
            self._text = TextStage(StagePorts("cross", args.text, stages), graph)
            widths[args.text] = self._text.width
        check_same_width("cross", widths)

    @property
    def features(self) -> Port:
        """The port that given features of regions go to; only where no stage makes what the head looks at."""
        return self._looked[0]

    def memory(self) -> Memory:
        """What one model keeps: many texts, two pictures, one pair."""
        stages = {self._args.vision: PICTURES_KEPT, self._args.text: TEXTS_KEPT, self._args.head: 1}
        return Memory({name: capacity for name, capacity in stages.items() if name is not None})

    def embed_image(self, pixels: Value, memory: Memory) -> Embedding:
        """The unit vector of one prepared picture. Raises NonFiniteError, TaskError."""
        stage = self._args.vision
        if stage is None or not self._embedding:
            raise _no_embedding("pictures")
        return unit(stage, self._graph.run(stage, {self._pixels: pixels}, memory)[self._embedding].array[0])

    def embed_text(self, ids: Value, mask: Value, memory: Memory) -> Embedding:
        """The unit vector of one text; a text seen lately is not run again. Raises NonFiniteError, TaskError."""
        if self._text is None or self._args.text is None:
            raise _no_embedding("texts")
        return unit(self._args.text, self._text.embed((ids, mask), memory))

    def encode_image(self, pixels: Value, memory: Memory) -> Looked:
        """What the head looks at of one prepared picture; one seen lately is not run again."""
        assert self._args.vision is not None
        outputs = self._graph.run(self._args.vision, {self._pixels: pixels}, memory)
        return {port.name: outputs[port.name] for port in self._looked}

    def read(self, looked: Looked, words: Words, memory: Memory) -> NDArray[np.float32]:
        """The head's output (C,) for one pair. Raises NonFiniteError."""
        by_kind = {"ids": words[0], "mask": words[1]}
        inputs = {port: by_kind[kind] for kind, port in self._words.items()}
        (output,) = self._graph.run(self._args.head, {**inputs, **looked}, memory).values()
        scores: NDArray[np.float32] = output.array[0]
        return scores

    def logits(self, pictures: Iterable[Value], texts: Sequence[Words], memory: Memory) -> NDArray[np.float32]:
        """`yes - no` for every picture and every text: (I, T)."""
        for ids, _ in texts:
            _ = ids.array  # first: a bad text is found at little cost
        rows = []
        for pixels in pictures:
            looked = self.encode_image(pixels, memory)
            pairs = [self.read(looked, words, memory) for words in texts]
            rows.append([yes - no for no, yes in pairs])
        return np.array(rows, np.float32)

    def scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of yes (I, T), each pair by itself."""
        return sigmoid(logits)  # the softmax over no and yes


def _columns(head: StagePorts, args: CrossArgs) -> int:
    shapes = [port.shape for port in head.outputs if port.kind == "scores"]
    required = MATCHED if args.scores == "match" else None
    if len(head.outputs) != 1 or len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != 1:
        raise head.misfit("one output of the kind 'scores' and the shape (1, C)")
    columns = shapes[0][1]
    if not isinstance(columns, int) or columns != (required or columns):
        raise head.misfit(f"scores of {required or 'a known number of'} columns")
    return columns


def _vision_ports(vision: StagePorts, looked: Sequence[Port]) -> tuple[str, str]:
    """(the port of the pixels, that of the embedding or nothing), where the rest is what the head looks at."""
    embeddings = [port.name for port in vision.outputs if port.kind == "embedding"]
    shapes = {port.name: port.shape for port in vision.outputs if port.kind != "embedding"}
    if len(embeddings) > 1 or shapes != {port.name: port.shape for port in looked}:
        raise vision.misfit("as outputs what the head looks at and at most one embedding")
    return vision.pixels(), next(iter(embeddings), "")


def _no_embedding(what: str) -> TaskError:
    return TaskError(f"embeddings of {what}: expected a model that makes them, this one only reads pairs; use match")
