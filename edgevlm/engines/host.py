"""NumPy on both sides of an engine: for callers with data on the host, and for engines whose memory that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.engines.base import DeviceTensor, Engine, Tensors

Arrays = Mapping[str, NDArray[Any]]


class HostTensor:
    """A `DeviceTensor` that is an array."""

    __slots__ = ("_array",)

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._array.dtype

    def numpy(self) -> NDArray[Any]:
        return self._array


class HostTensors(Mapping[str, DeviceTensor]):
    """Arrays as tensors, each wrapped when it is looked up: a decoder passes hundreds in every step."""

    __slots__ = ("arrays",)

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def __getitem__(self, name: str) -> HostTensor:
        return HostTensor(self.arrays[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def to_numpy(tensors: Tensors) -> Arrays:
    """The tensors on the host."""
    if isinstance(tensors, HostTensors):
        return tensors.arrays
    return {name: tensor.numpy() for name, tensor in tensors.items()}


class Host:
    """An engine with arrays in and out; see `Engine` for the promises."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.stages = engine.stages

    def run(self, stage: str, inputs: Arrays, outputs: Arrays | None = None) -> Arrays:
        into = None if outputs is None else HostTensors(outputs)
        return to_numpy(self._engine.run(stage, HostTensors(inputs), into))

    def close(self) -> None:
        self._engine.close()
