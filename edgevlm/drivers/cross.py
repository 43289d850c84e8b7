"""The `cross` driver: a picture, or features of its regions, and a text, read together by one head.

Stages (see `manifest.CrossArgs`): vision once per picture, head once per pair, text where texts are encoded alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers.dual import TEXTS_KEPT, Embedding, Words, unit
from edgevlm.errors import BundleError, TaskError
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest.schema import CrossArgs, Manifest, Port, StageSpec

MATCHED = 2  # columns of `match`: no, yes
PICTURES_KEPT = 2  # two cameras, asked in turn; keys and values of a picture are large, 42 MB in published models

Looked = Mapping[str, Value]  # what the head looks at, by its port


class CrossDriver:
    """Host code around the stages of one bundle; shared, holds no state."""

    def __init__(self, manifest: Manifest, graph: Graph) -> None:
        """Raises BundleError when the ports of the stages do not fit the driver."""
        args = manifest.loop(CrossArgs)
        self._args, self._graph = args, graph
        head = manifest.stages[args.head]
        self.columns = _columns(head, args)
        self._words = {port.kind: port.name for port in head.inputs if port.kind in ("ids", "mask")}
        self._looked = [port for port in head.inputs if port.name not in self._words.values()]
        if "ids" not in self._words or not self._looked:
            raise _unfit(args.head, head, "ids and something to look at")
        self._pixels, self._embedding = "", ""
        if args.vision is not None:
            self._pixels, self._embedding = _vision_ports(args.vision, manifest.stages[args.vision], self._looked)
        elif [(port.kind, len(port.shape)) for port in self._looked] != [("features", 3)]:
            raise _unfit(args.head, head, "ids and features (1, R, V), where no stage makes what it looks at")
        self._text: dict[str, str] = {}
        if args.text is not None:
            text = manifest.stages[args.text]
            self._text = {port.kind: port.name for port in text.inputs}
            if set(self._text) - {"mask"} != {"ids"} or [port.kind for port in text.outputs] != ["embedding"]:
                raise _unfit(args.text, text, "ids, perhaps a mask, and one embedding as output")
        _check_widths({name: manifest.stages[name] for name in (args.vision, args.text) if name is not None})

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
        return unit(stage, self._graph.run(stage, {self._pixels: pixels}, memory)[self._embedding].array)

    def embed_text(self, ids: Value, mask: Value, memory: Memory) -> Embedding:
        """The unit vector of one text; a text seen lately is not run again. Raises NonFiniteError, TaskError."""
        stage = self._args.text
        if stage is None:
            raise _no_embedding("texts")
        by_kind = {"ids": ids, "mask": mask}
        outputs = self._graph.run(stage, {port: by_kind[kind] for kind, port in self._text.items()}, memory)
        return unit(stage, next(iter(outputs.values())).array)

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
        each: NDArray[np.float32] = np.exp(-np.logaddexp(np.float32(0), -logits))  # softmax over no and yes
        return each


def _columns(head: StageSpec, args: CrossArgs) -> int:
    shapes = [port.shape for port in head.outputs if port.kind == "scores"]
    required = MATCHED if args.scores == "match" else None
    if len(head.outputs) != 1 or len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != 1:
        raise _unfit(args.head, head, "one output of the kind 'scores' and the shape (1, C)")
    columns = shapes[0][1]
    if not isinstance(columns, int) or columns != (required or columns):
        raise _unfit(args.head, head, f"scores of {required or 'a known number of'} columns")
    return columns


def _vision_ports(name: str, vision: StageSpec, looked: Sequence[Port]) -> tuple[str, str]:
    """(the port of the pixels, that of the embedding or nothing), where the rest is what the head looks at."""
    embeddings = [port.name for port in vision.outputs if port.kind == "embedding"]
    shapes = {port.name: port.shape for port in vision.outputs if port.kind != "embedding"}
    fits = shapes == {port.name: port.shape for port in looked}
    if [port.kind for port in vision.inputs] != ["pixels"] or len(embeddings) > 1 or not fits:
        raise _unfit(name, vision, "pixels, and as outputs what the head looks at and at most one embedding")
    return vision.inputs[0].name, next(iter(embeddings), "")


def _check_widths(stages: Mapping[str, StageSpec]) -> None:
    """Embeddings of pictures and of texts are compared by those who ask for them."""
    sizes: dict[str, int] = {}
    for name, stage in stages.items():
        for shape in (port.shape for port in stage.outputs if port.kind == "embedding"):
            if len(shape) != 2 or shape[0] != 1 or not isinstance(shape[1], int):
                raise _unfit(name, stage, "one embedding (1, D)")
            sizes[name] = shape[1]
    if len(set(sizes.values())) > 1:
        raise BundleError(
            f"the cross driver expected embeddings of one size from both stages, got {sizes}; export it again"
        )


def _unfit(name: str, stage: StageSpec, expected: str) -> BundleError:
    ports = [f"{port.name}: {port.kind} {list(port.shape)}" for port in (*stage.inputs, *stage.outputs)]
    return BundleError(
        f"stage {name!r}: the cross driver expected {expected}, got {ports[:12]}; export the bundle again"
    )


def _no_embedding(what: str) -> TaskError:
    return TaskError(f"embeddings of {what}: expected a model that makes them, this one only reads pairs; use match")
