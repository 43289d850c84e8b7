"""The seam to an engine: three verbs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.options import RuntimeOptions


class Engine(Protocol):
    """One stage in one engine.

    `run` is synchronous, releases the GIL while the engine works, and returns arrays that the caller owns: the engine
    never writes into them again. Inputs are read during the call only. One call at a time.
    """

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]: ...

    def close(self) -> None: ...


EngineFactory = Callable[[Bundle, str, RuntimeOptions], Engine]
