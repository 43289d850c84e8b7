"""What every engine checks of a stage: the file that the bundle names, its ports, and what a caller passes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.engines.base import EngineFactory, Tensors
from edgevlm.engines.host import Arrays, HostTensors, to_numpy
from edgevlm.errors import BundleError, EngineError
from edgevlm.manifest.schema import Port
from edgevlm.onnx_file import OnnxFacts, read_onnx
from edgevlm.options import RuntimeOptions

Shape = Sequence[int | str | None]


class StageFile:
    """The file of one stage in the form that the options mean.

    Raises:
        EngineError: the bundle has no such form.
    """

    def __init__(self, bundle: Bundle, stage: str, options: RuntimeOptions) -> None:
        self.where = f"stage {stage!r} of {bundle.root}"
        self.spec = bundle.manifest.stages[stage]
        form = "cpu" if options.form == "auto" else options.form
        if form not in self.spec.forms:
            raise EngineError(f"{self.where}: expected the form {form!r}, the bundle has {sorted(self.spec.forms)}")
        self.path: Path = bundle.path(self.spec.forms[form])
        self.outputs: Mapping[str, Port] = {port.name: port for port in self.spec.outputs}
        self._inputs = {port.name: port for port in self.spec.inputs}
        self._limit_s = options.run_limit_s

    def facts(self) -> OnnxFacts:
        """What the file holds. Raises EngineError: it changed since the bundle was opened."""
        try:
            return read_onnx(self.path)
        except BundleError as error:
            raise EngineError(f"{self.where}: {error}") from error

    def check_ports(self, side: str, file: Mapping[str, tuple[str, Shape]]) -> None:
        """`inputs` or `outputs` of the file, name -> (type, shape), are the manifest's. Raises EngineError."""
        ports = self.spec.inputs if side == "inputs" else self.spec.outputs
        if set(file) != {port.name for port in ports}:
            raise EngineError(
                f"{self.where}: expected {side} {[port.name for port in ports]} as the manifest says, the file has "
                f"{sorted(file)}; export the bundle again"
            )
        for port in ports:
            kind, shape = file[port.name]
            if kind != port.dtype or not _fits(port.shape, shape):
                raise EngineError(
                    f"{self.where}: expected {port.name!r} {port.dtype} {port.shape} as the manifest says, the file "
                    f"has {kind} {tuple(shape)}; export the bundle again"
                )

    def check_inputs(self, inputs: Arrays) -> None:
        """For an engine that would convert what does not fit. Raises EngineError."""
        if set(inputs) != set(self._inputs):
            raise EngineError(f"{self.where}: expected inputs {sorted(self._inputs)}, got {sorted(inputs)}")
        for name, array in inputs.items():
            port = self._inputs[name]
            shape = array.shape if isinstance(array, np.ndarray) else None
            if (
                shape is None
                or array.dtype != port.dtype
                or len(shape) != len(port.shape)
                or not _fits(port.shape, shape)
            ):
                got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
                raise EngineError(f"{self.where}, input {name!r}: expected {port.dtype} {port.shape}, got {got}")

    def check_outputs(self, into: Arrays) -> None:
        """The arrays that the engine is to write to. Raises EngineError."""
        for name, array in into.items():
            port = self.outputs.get(name)
            if port is None:
                raise EngineError(f"{self.where}: expected outputs of {list(self.outputs)}, got {name!r}")
            if not _is(port, array) or not array.flags.carray:
                raise EngineError(
                    f"{self.where}, output {name!r}: expected a contiguous, writable array {port.dtype} {port.shape}, "
                    f"got {array.dtype} {array.shape}"
                )

    def refused(self, engine: str, error: Exception) -> EngineError:
        """An engine does not open the file."""
        return EngineError(f"{self.where}: {engine} refuses {self.path.name}: {line(error)}; export the bundle again")

    def ended(self) -> EngineError:
        """A run was ended."""
        return EngineError(
            f"{self.where}: expected a run to end within {self._limit_s:g} s, it was ended; raise run_limit_s on a "
            "slow machine, or do not use this bundle"
        )

    def closed(self) -> EngineError:
        """A run after `close`."""
        return EngineError(f"{self.where}: expected an open engine, it was closed; load the bundle again")


class StageSession(Protocol):
    """One stage, open in an engine; see `Engine` for the promises."""

    def run(self, inputs: Arrays, into: Arrays) -> Arrays: ...

    def close(self) -> None: ...


class SessionEngine:
    """An engine on the host with a session for each stage; see `Engine` for the promises."""

    def __init__(self, bundle: Bundle) -> None:
        self._root = bundle.root
        self._sessions: dict[str, StageSession] = {}

    @classmethod
    def factory(cls, session: Callable[[StageFile, RuntimeOptions], StageSession]) -> EngineFactory:
        """An `open` that makes a session of each stage's file; where one is refused nothing stays open."""

        def open_all(bundle: Bundle, stages: Collection[str], options: RuntimeOptions) -> SessionEngine:
            engine = cls(bundle)
            try:
                for stage in stages:
                    engine._sessions[stage] = session(StageFile(bundle, stage, options), options)
            except BaseException:
                engine.close()
                raise
            return engine

        return open_all

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


def line(error: Exception) -> str:
    """What an engine says, on one line."""
    return " ".join(str(error).split())


def _is(port: Port, array: NDArray[Any]) -> bool:
    return array.dtype == port.dtype and array.ndim == len(port.shape) and _fits(port.shape, array.shape)


def _fits(expected: Sequence[int | str], shape: Shape) -> bool:
    """Whether two shapes agree wherever both give numbers; a file need not tell the shape at all."""
    if not shape:
        return True
    pairs = zip(expected, shape, strict=False)
    return len(expected) == len(shape) and all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))
