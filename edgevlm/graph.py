"""Stages over versioned values: a stage is run once for each combination of input versions.

A `Graph` is the shared, immutable part (the engine); a `Memory` belongs to one session and holds what was computed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.engines import Arrays, Host
from edgevlm.errors import NonFiniteError, SessionError

Key = tuple[Hashable, ...]
Clock = Callable[[], int]

_SHOWN = 4  # outputs that an error names
_TOGETHER_BYTES = 1 << 20  # up to here, many small arrays are looked at as one: a copy costs less than the calls


class Value:
    """An immutable array with a version. Two values with one version are equal; the array is made when first needed."""

    __slots__ = ("_array", "_finite", "_make", "version")

    def __init__(
        self, version: Hashable, make: Callable[[], NDArray[Any]] | NDArray[Any], *, finite: bool = False
    ) -> None:
        self.version = version
        self._make = make if callable(make) else None
        self._array = None if callable(make) else make
        self._finite = finite

    def is_finite(self) -> bool:
        """Whether it has neither NaN nor infinity; looked at once."""
        if not self._finite:
            self._finite = all_finite((self.array,))
        return self._finite

    @property
    def array(self) -> NDArray[Any]:
        """The content; the maker is called once and then let go, with all it held on to."""
        if self._array is None:
            assert self._make is not None
            self._array = self._make()
            self._make = None
        return self._array


def all_finite(arrays: Collection[NDArray[Any]]) -> bool:
    """Whether no array has NaN or infinity, by sums: what is not finite makes a sum that is not finite.

    A sum of finite numbers may overflow as well; only then is each number looked at.
    """
    floats = [array for array in arrays if array.dtype.kind == "f"]
    summed = floats
    if len(floats) > 2 and sum(array.nbytes for array in floats) <= _TOGETHER_BYTES:
        summed = [np.concatenate([array.reshape(-1) for array in floats])]
    with np.errstate(all="ignore"):
        if all(np.isfinite(np.add.reduce(array, axis=None)) for array in summed):
            return True
    return all(bool(np.isfinite(array).all()) for array in floats)


class Memory:
    """What one session has computed, stage by stage, and where the time of the current step went.

    Args:
        capacity: stage -> how many results are kept, least recently used first out; a stage not named keeps
            everything until `forget`.
    """

    def __init__(self, capacity: Mapping[str, int]) -> None:
        self._capacity = dict(capacity)
        self._results: dict[str, OrderedDict[Key, dict[str, Value]]] = {}
        self.times_ns: dict[str, int] = {}  # of the current step: stage -> engine time, "preprocess" -> host time
        self.runs: dict[str, int] = {}  # stage -> engine runs since the session began

    def begin_step(self) -> None:
        """Start the timing of a step."""
        self.times_ns = {}

    def add_time(self, name: str, duration_ns: int) -> None:
        """Add to the current step's time under `name`."""
        self.times_ns[name] = self.times_ns.get(name, 0) + duration_ns

    def get(self, stage: str, key: Key) -> dict[str, Value] | None:
        """A kept result, now the most recently used one."""
        results = self._results.get(stage)
        if results is None or key not in results:
            return None
        results.move_to_end(key)
        return results[key]

    def put(self, stage: str, key: Key, result: dict[str, Value]) -> None:
        """Keep a result; the least recently used one goes when the stage's capacity is reached."""
        results = self._results.setdefault(stage, OrderedDict())
        results[key] = result
        if len(results) > self._capacity.get(stage, len(results)):
            results.popitem(last=False)

    def count_run(self, stage: str) -> None:
        """One more run of the stage's engine."""
        self.runs[stage] = self.runs.get(stage, 0) + 1

    def forget(self, stage: str, key: Key) -> None:
        """Let one result go, if it is there."""
        self._results.get(stage, OrderedDict()).pop(key, None)

    def clear(self) -> None:
        """Let all results go; counters stay."""
        self._results.clear()


class Graph:
    """The stages of a bundle. Shared by all sessions, whose threads take turns at each stage.

    A run after `close` raises SessionError.
    """

    def __init__(self, host: Host, clock: Clock) -> None:
        self._host = host
        self._turns = {stage: threading.Lock() for stage in host.stages}
        self._clock = clock
        self.closed = False

    def run(self, stage: str, inputs: Mapping[str, Value], memory: Memory) -> dict[str, Value]:
        """The outputs of `stage`, from memory where these input versions were seen before.

        Raises:
            NonFiniteError: NaN or infinity in an input, before the stage runs, or in an output: what is quantized would
                hide it from whoever comes later. Nothing is kept.
            EngineError: the engine failed; nothing is kept.
        """
        key = tuple(value.version for value in inputs.values())
        known = memory.get(stage, key)
        if known is not None:
            return known
        for name, value in inputs.items():
            if not value.is_finite():
                raise NonFiniteError(
                    f"stage {stage!r}, input {name!r}: expected finite numbers, got NaN or infinity; check what is "
                    "given to the model"
                )
        outputs = self._engine_run(stage, {name: value.array for name, value in inputs.items()}, memory)
        memory.count_run(stage)
        _check_outputs(stage, outputs)
        result = {name: Value((stage, name, key), array, finite=True) for name, array in outputs.items()}
        memory.put(stage, key, result)
        return result

    def run_state(self, stage: str, arrays: Arrays, memory: Memory) -> Arrays:
        """The outputs of a stage whose inputs hold state: run every time, and nothing is kept.

        Its inputs are what runs before it gave, which were looked at then, and what a driver makes of whole numbers:
        a conversation's keys and values are not looked at again for each token.

        Raises:
            NonFiniteError: NaN or infinity in an output.
            EngineError: the engine failed.
        """
        outputs = self._engine_run(stage, arrays, memory)
        memory.count_run(stage)
        _check_outputs(stage, outputs)
        return outputs

    def _engine_run(self, stage: str, arrays: Arrays, memory: Memory) -> Arrays:
        with self._turns[stage]:
            if self.closed:
                raise SessionError("model: expected an open one, it was closed; load the bundle again")
            started = self._clock()
            outputs = self._host.run(stage, arrays)
            duration_ns = self._clock() - started
        memory.add_time(stage, duration_ns)
        return outputs

    def close(self) -> None:
        """Close the engine, after the runs that it is at."""
        self.closed = True
        with ExitStack() as turns:
            for turn in self._turns.values():
                turns.enter_context(turn)
            self._host.close()


def _check_outputs(stage: str, outputs: Arrays) -> None:
    """Raises NonFiniteError."""
    if all_finite(outputs.values()):
        return
    bad = [name for name, array in outputs.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    raise NonFiniteError(
        f"stage {stage!r}, output {', '.join(map(repr, bad[:_SHOWN]))}: expected finite numbers, got NaN or infinity; "
        "what was given makes the model overflow: try an fp32 bundle, then run: edgevlm verify BUNDLE"
    )
