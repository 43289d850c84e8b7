"""A stage's ports by their kinds, for every driver, and one sentence that refuses what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import BundleError
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest.stages import Port, PortKind, StageSpec

Words = tuple[Value, Value]  # ids (1, L) and mask (1, L) of a text
SHOWN = 12  # ports that an error lists


def text_values(text: str, encode: Callable[[str], tuple[NDArray[np.int64], NDArray[np.float32]]]) -> Words:
    """Ids and mask of `text`; `encode` makes both, once, when the first of them is needed."""
    encoded = cache(lambda: encode(text))
    return Value(("ids", text), lambda: encoded()[0]), Value(("mask", text), lambda: encoded()[1])


class StagePorts:
    """One stage, as its driver reads it.

    Attributes:
        inputs, outputs: as in the manifest.
    """

    def __init__(self, driver: str, name: str, stages: Mapping[str, StageSpec]) -> None:
        self._driver, self.name, self.stage = driver, name, stages[name]
        self.inputs, self.outputs = self.stage.inputs, self.stage.outputs

    def misfit(self, expected: str, got: object = None) -> BundleError:
        """For a stage that is not what the driver needs; `got` is its ports where nothing else is given."""
        ports = [f"{port.name}: {port.kind} {list(port.shape)}" for port in (*self.inputs, *self.outputs)]
        return BundleError(
            f"stage {self.name!r}: the {self._driver} driver expected {expected}, "
            f"got {ports[:SHOWN] if got is None else got}; export the bundle again"
        )

    def input(self, kind: PortKind) -> Port:
        """The one input of a kind. Raises BundleError."""
        return self._only(self.inputs, kind, "input")

    def output(self, kind: PortKind) -> Port:
        """The one output of a kind. Raises BundleError."""
        return self._only(self.outputs, kind, "output")

    def pixels(self) -> str:
        """The input of a stage that takes pixels and nothing else. Raises BundleError."""
        if [port.kind for port in self.inputs] != ["pixels"]:
            raise self.misfit("pixels as its one input")
        return self.inputs[0].name

    def fixed(self, port: Port) -> tuple[int, ...]:
        """The shape of a port that has no dynamic dimension. Raises BundleError."""
        sizes = tuple(side for side in port.shape if isinstance(side, int))
        if len(sizes) != len(port.shape):
            raise self.misfit(f"a fixed shape of {port.name!r}", port.shape)
        return sizes

    def _only(self, ports: Sequence[Port], kind: PortKind, side: str) -> Port:
        matches = [port for port in ports if port.kind == kind]
        if len(matches) != 1:
            raise self.misfit(f"one {side} of the kind {kind!r}")
        return matches[0]


class TextStage:
    """A stage that makes one vector of a text: ids (1, L)[, mask (1, L)] -> (1, D).

    Attributes:
        width: D.

    Raises:
        BundleError: the stage has other ports.
    """

    def __init__(self, ports: StagePorts, graph: Graph) -> None:
        kinds = sorted(port.kind for port in ports.inputs)
        if kinds not in (["ids"], ["ids", "mask"]) or [port.kind for port in ports.outputs] != ["embedding"]:
            raise ports.misfit("ids, perhaps a mask, and one embedding as output")
        self._graph, self._stage = graph, ports.name
        self._inputs = {port.name: port.kind for port in ports.inputs}
        self.width = embedding_width(ports)

    def embed(self, words: Words, memory: Memory) -> NDArray[np.float32]:
        """The vector (D,) of one text; of a text met lately the stage is not run again."""
        by_kind = dict(zip(("ids", "mask"), words, strict=True))
        outputs = self._graph.run(self._stage, {name: by_kind[kind] for name, kind in self._inputs.items()}, memory)
        vector: NDArray[np.float32] = next(iter(outputs.values())).array[0]
        return vector


def embedding_width(ports: StagePorts) -> int:
    """D of a stage's one embedding (1, D). Raises BundleError."""
    port = ports.output("embedding")
    if len(port.shape) != 2 or port.shape[0] != 1 or not isinstance(port.shape[1], int):
        raise ports.misfit("one embedding (1, D)")
    return port.shape[1]


def check_same_width(driver: str, widths: Mapping[str, int]) -> None:
    """Embeddings of pictures and of texts are compared, so they are equally wide. Raises BundleError."""
    if len(set(widths.values())) > 1:
        raise BundleError(
            f"the {driver} driver expected embeddings of one size from its stages, got {dict(widths)}; export it again"
        )
