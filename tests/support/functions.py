"""An engine whose stages are functions of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgevlm.engines import Arrays, Host, HostTensors, Tensors, to_numpy
from edgevlm.graph import Clock, Graph


class Functions:
    """See `Engine`; whether it was closed is told."""

    def __init__(self, stages: Mapping[str, Callable[[Arrays], Arrays]]) -> None:
        self._functions, self.stages = stages, tuple(stages)
        self.closed = False

    def run(self, stage: str, inputs: Tensors, outputs: Tensors | None = None) -> Tensors:
        return HostTensors(self._functions[stage](to_numpy(inputs)))

    def close(self) -> None:
        self.closed = True


def graph_of(stages: Mapping[str, Callable[[Arrays], Arrays]], clock: Clock = lambda: 0) -> Graph:
    """A graph over functions."""
    return Graph(Host(Functions(stages)), clock)
