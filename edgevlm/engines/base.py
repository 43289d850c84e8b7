"""The seam to an engine: `open` over the stages of a bundle, `run`, `close`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.options import RuntimeOptions


class DeviceTensor(Protocol):
    """A tensor in the memory of its engine."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def numpy(self) -> NDArray[Any]:
        """On the host: on a CPU the memory itself, at no cost; from another device a copy."""
        ...


Tensors = Mapping[str, DeviceTensor]


class Engine(Protocol):
    """The stages of one bundle in one engine, which owns their sessions, threads and caches.

    `run` is synchronous, releases the GIL while the engine works, and returns a tensor for each output of the stage,
    by its name: one of `outputs` where that names it, else a new one. The caller owns what is returned: the engine
    never writes into it again, and it outlives the engine. Inputs are read during the call only. Threads may run
    different stages at the same time, one stage only in turn.

    Raises:
        EngineError: the engine was closed or has no such stage, inputs or `outputs` do not fit the stage's ports, or
            the run failed.
    """

    @property
    def stages(self) -> tuple[str, ...]: ...

    def run(self, stage: str, inputs: Tensors, outputs: Tensors | None = None) -> Tensors: ...

    def close(self) -> None:
        """Free everything; a second time does nothing."""
        ...


class Kernels(NamedTuple):
    """A stage's products with quantized weights, as an engine runs them here.

    Attributes:
        integer: computed in integers.
        dequantized: computed in floats, of weights that each run dequantizes: slower than a float stage.
    """

    integer: int
    dequantized: int


# How an engine runs the quantized products of one stage of a bundle. Raises EngineError.
KernelCounter = Callable[[Bundle, str, RuntimeOptions], Kernels]
# The `open` of an engine: these stages of a bundle, all or none of them; where one is refused nothing stays open.
EngineFactory = Callable[[Bundle, Collection[str], RuntimeOptions], Engine]
