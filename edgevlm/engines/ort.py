"""Stages in ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgevlm.bundle import Bundle
from edgevlm.engines.base import Kernels, Tensors
from edgevlm.engines.host import Arrays, HostTensors, to_numpy
from edgevlm.engines.ort_session import FATAL, count_kernels, open_session
from edgevlm.engines.run_limit import RUN_LIMITS
from edgevlm.errors import BundleError, EngineError, require
from edgevlm.manifest.schema import Port
from edgevlm.onnx_file import OnnxFacts, read_onnx
from edgevlm.options import RuntimeOptions

Result = TypeVar("Result")
TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}


class OrtEngine:
    """Each stage as an `onnxruntime.InferenceSession`; see `Engine` for the promises."""

    def __init__(self, bundle: Bundle) -> None:
        self._root = bundle.root
        self._sessions: dict[str, _Session] = {}

    @classmethod
    def open(cls, bundle: Bundle, stages: Collection[str], options: RuntimeOptions) -> OrtEngine:
        """These stages of `bundle`.

        Raises:
            DependencyError: onnxruntime is not installed.
            EngineError: the engine refuses a file; nothing stays open.
        """
        engine = cls(bundle)
        try:
            for stage in stages:
                engine._sessions[stage] = _Session(bundle, stage, options)
        except BaseException:
            engine.close()
            raise
        return engine

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(self._sessions)

    def run(self, stage: str, inputs: Tensors, outputs: Tensors | None = None) -> Tensors:
        session = self._sessions.get(stage)
        if session is None:
            raise EngineError(f"{self._root}: expected one of the stages {list(self._sessions)}, got {stage!r}")
        return HostTensors(session.run(to_numpy(inputs), {} if outputs is None else to_numpy(outputs)))

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()


class _Session:
    """One stage.

    Raises:
        DependencyError: onnxruntime is not installed.
        EngineError: the engine refuses the file, or fails while running it.
    """

    def __init__(self, bundle: Bundle, stage: str, options: RuntimeOptions) -> None:
        ort = require("onnxruntime", extra="cpu")
        spec = bundle.manifest.stages[stage]
        self._failures = _failures()
        self._where = f"stage {stage!r} of {bundle.root}"
        self._run_options, self._limit_s = ort.RunOptions, options.run_limit_s
        self._session = _of_file(open_session, bundle, stage, options)
        self._outputs = {port.name: port for port in spec.outputs}
        self._names = list(self._outputs)
        self._check_ports("inputs", spec.inputs, self._session.get_inputs())
        self._check_ports("outputs", spec.outputs, self._session.get_outputs())

    def _check_ports(self, side: str, ports: Sequence[Port], items: Sequence[Any]) -> None:
        by_name = {item.name: item for item in items}
        if set(by_name) != {port.name for port in ports}:
            raise EngineError(
                f"{self._where}: expected {side} {[port.name for port in ports]} as the manifest says, the file has "
                f"{sorted(by_name)}; export the bundle again"
            )
        for port in ports:
            shape, kind = tuple(by_name[port.name].shape), by_name[port.name].type
            if kind != TYPES[port.dtype] or not _fits(port.shape, shape):
                raise EngineError(
                    f"{self._where}: expected {port.name!r} {port.dtype} {port.shape} as the manifest says, the file "
                    f"has {kind} {shape}; export the bundle again"
                )

    def run(self, inputs: Arrays, into: Arrays) -> Arrays:
        if self._session is None:
            raise EngineError(f"{self._where}: expected an open engine, it was closed; load the bundle again")
        self._check_into(into)
        running = self._run_options()
        running.log_severity_level = FATAL
        try:
            with RUN_LIMITS.limit(self._limit_s, partial(setattr, running, "terminate", True)):
                results = (
                    self._run_into(inputs, into, running) if into else self._session.run(self._names, inputs, running)
                )
        except self._failures as error:
            if running.terminate:
                raise EngineError(
                    f"{self._where}: expected a run to end within {self._limit_s:g} s, it was ended; raise run_limit_s "
                    "on a slow machine, or do not use this bundle"
                ) from error
            raise EngineError(f"{self._where}: {_line(error)}") from error
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

    def _check_into(self, into: Arrays) -> None:
        for name, array in into.items():
            port = self._outputs.get(name)
            if port is None:
                raise EngineError(f"{self._where}: expected outputs of {self._names}, got {name!r}")
            fits = array.dtype == port.dtype and array.ndim == len(port.shape) and _fits(port.shape, array.shape)
            if not fits or not array.flags.carray:
                raise EngineError(
                    f"{self._where}, output {name!r}: expected a contiguous, writable array {port.dtype} {port.shape}, "
                    f"got {array.dtype} {array.shape}"
                )

    def close(self) -> None:
        self._session = None


def _fits(expected: Sequence[int | str], shape: Sequence[int | str | None]) -> bool:
    """Whether two shapes agree wherever both give numbers; a file need not tell the shape at all."""
    if not shape:
        return True
    pairs = zip(expected, shape, strict=False)
    return len(expected) == len(shape) and all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _of_file(
    make: Callable[[Path, RuntimeOptions, OnnxFacts], Result], bundle: Bundle, stage: str, options: RuntimeOptions
) -> Result:
    """What ONNX Runtime makes of a stage's file. Raises EngineError."""
    where = f"stage {stage!r} of {bundle.root}"
    path = bundle.path(bundle.manifest.stages[stage].forms[_form(bundle, stage, options)])
    try:
        return make(path, options, read_onnx(path))
    except _failures() as error:
        raise EngineError(
            f"{where}: ONNX Runtime refuses {path.name}: {_line(error)}; export the bundle again"
        ) from error
    except BundleError as error:  # it changed since the bundle was opened
        raise EngineError(f"{where}: {error}") from error


def kernels(bundle: Bundle, stage: str, options: RuntimeOptions) -> Kernels:
    """How ONNX Runtime runs the quantized products of a stage. Raises EngineError."""
    return _of_file(count_kernels, bundle, stage, options)


def _failures() -> tuple[type[Exception], ...]:
    """The engine's exceptions share no public base class below RuntimeError/Exception: they are named once, here."""
    state = require("onnxruntime.capi.onnxruntime_pybind11_state", extra="cpu")
    own = [item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception)]
    return (*own, RuntimeError, ValueError)


def _form(bundle: Bundle, stage: str, options: RuntimeOptions) -> Any:
    forms = bundle.manifest.stages[stage].forms
    form = "cpu" if options.form == "auto" else options.form
    if form not in forms:
        raise EngineError(
            f"stage {stage!r} of {bundle.root}: expected the form {form!r}, the bundle has {sorted(forms)}"
        )
    return form
