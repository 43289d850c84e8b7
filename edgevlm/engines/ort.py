"""Stages in ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgevlm.bundle import Bundle
from edgevlm.engines.base import Kernels
from edgevlm.engines.host import Arrays
from edgevlm.engines.ort_session import FATAL, count_kernels, open_session
from edgevlm.engines.run_limit import RUN_LIMITS
from edgevlm.engines.stage_file import SessionEngine, StageFile, line
from edgevlm.errors import EngineError, require
from edgevlm.onnx_file import OnnxFacts
from edgevlm.options import RuntimeOptions

Result = TypeVar("Result")
TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}


class _Session:
    """One stage.

    Raises:
        DependencyError: onnxruntime is not installed.
        EngineError: the engine refuses the file, or fails while running it.
    """

    def __init__(self, file: StageFile, options: RuntimeOptions) -> None:
        ort = require("onnxruntime", extra="cpu")
        self._file, self._failures = file, _failures()
        self._run_options, self._limit_s = ort.RunOptions, options.run_limit_s
        self._session = _of_file(open_session, file, options)
        self._names = list(file.outputs)
        sides = {"inputs": self._session.get_inputs(), "outputs": self._session.get_outputs()}
        for side, items in sides.items():
            file.check_ports(side, {item.name: (TYPES.get(item.type, item.type), item.shape) for item in items})

    def run(self, inputs: Arrays, into: Arrays) -> Arrays:
        if self._session is None:
            raise self._file.closed()
        self._file.check_outputs(into)
        running = self._run_options()
        running.log_severity_level = FATAL
        try:
            with RUN_LIMITS.limit(self._limit_s, partial(setattr, running, "terminate", True)):
                results = (
                    self._run_into(inputs, into, running) if into else self._session.run(self._names, inputs, running)
                )
        except self._failures as error:
            if running.terminate:
                raise self._file.ended() from error
            raise EngineError(f"{self._file.where}: {line(error)}") from error
        return dict(zip(self._names, results, strict=True))

    def _run_into(self, inputs: Arrays, into: Arrays, running: Any) -> list[Any]:
        """As a plain run, but the engine writes to the arrays of `into`."""
        binding = self._session.io_binding()
        sources = {name: np.ascontiguousarray(array) for name, array in inputs.items()}  # alive until the run is over
        for name, array in sources.items():
            binding.bind_cpu_input(name, array)
        for name in self._names:
            if (target := into.get(name)) is None:
                binding.bind_output(name)
            else:
                binding.bind_output(name, "cpu", 0, target.dtype, target.shape, target.ctypes.data)
        self._session.run_with_iobinding(binding, running)
        results = zip(self._names, binding.get_outputs(), strict=True)
        return [into[name] if name in into else value.numpy() for name, value in results]

    def close(self) -> None:
        self._session = None


open_engine = SessionEngine.factory(_Session)


def _of_file(
    make: Callable[[Path, RuntimeOptions, OnnxFacts], Result], file: StageFile, options: RuntimeOptions
) -> Result:
    """What ONNX Runtime makes of a stage's file. Raises EngineError."""
    try:
        return make(file.path, options, file.facts())
    except _failures() as error:
        raise file.refused("ONNX Runtime", error) from error


def kernels(bundle: Bundle, stage: str, options: RuntimeOptions) -> Kernels:
    """How ONNX Runtime runs the quantized products of a stage. Raises EngineError."""
    return _of_file(count_kernels, StageFile(bundle, stage, options), options)


def _failures() -> tuple[type[Exception], ...]:
    """The engine's exceptions share no public base class below RuntimeError/Exception: they are named once, here."""
    state = require("onnxruntime.capi.onnxruntime_pybind11_state", extra="cpu")
    own = [item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception)]
    return (*own, RuntimeError, ValueError)
