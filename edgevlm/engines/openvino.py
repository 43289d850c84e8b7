"""Stages in OpenVINO, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.engines.base import Kernels
from edgevlm.engines.host import Arrays
from edgevlm.engines.run_limit import RUN_LIMITS
from edgevlm.engines.stage_file import SessionEngine, StageFile, line
from edgevlm.errors import EngineError, require
from edgevlm.options import RuntimeOptions

_FAILURES = (RuntimeError, ValueError, TypeError)
_PRODUCTS = frozenset({"FullyConnected", "MatMul", "Convolution"})
_INTEGERS = frozenset({"u8", "i8"})


class _Session:
    """One stage.

    Raises:
        DependencyError: openvino is not installed.
        EngineError: the engine refuses the file or an option, or fails while running it.
    """

    def __init__(self, file: StageFile, options: RuntimeOptions) -> None:
        self._tensor = require("openvino", extra="openvino").Tensor
        self._file, self._limit_s = file, options.run_limit_s
        compiled = _compiled(file, options)
        for side, ports in (("inputs", compiled.inputs), ("outputs", compiled.outputs)):
            kinds = {port.any_name: (port.element_type.to_dtype().name, _shape(port)) for port in ports}
            file.check_ports(side, kinds)
        self._inputs = [port.any_name for port in compiled.inputs]
        # An output of a static shape is written where the caller reads it; the size of another is known after the run.
        self._static = {
            port.any_name: (i, tuple(port.shape), port.element_type.to_dtype())
            for i, port in enumerate(compiled.outputs)
            if port.partial_shape.is_static
        }
        self._places = {port.any_name: i for i, port in enumerate(compiled.outputs)}
        self._request = compiled.create_infer_request()

    def run(self, inputs: Arrays, into: Arrays) -> Arrays:
        request = self._request
        if request is None:
            raise self._file.closed()
        self._file.check_inputs(inputs)
        self._file.check_outputs(into)
        ended = False

        def end() -> None:
            nonlocal ended
            ended = True
            request.cancel()

        try:
            for i, name in enumerate(self._inputs):
                request.set_input_tensor(i, self._tensor(_readable(inputs[name]), shared_memory=True))
            results = self._bind(request, into)
            with RUN_LIMITS.limit(self._limit_s, end):
                request.start_async()
                request.wait()
        except _FAILURES as error:
            if ended:
                raise self._file.ended() from error
            raise EngineError(f"{self._file.where}: {line(error)}") from error
        return {name: results[name] if name in results else self._taken(request, name, into) for name in self._places}

    def _bind(self, request: Any, into: Arrays) -> dict[str, NDArray[Any]]:
        """The arrays that the engine writes to."""
        results = {}
        for name, (i, shape, dtype) in self._static.items():
            results[name] = into[name] if name in into else np.empty(shape, dtype)
            request.set_output_tensor(i, self._tensor(results[name], shared_memory=True))
        return results

    def _taken(self, request: Any, name: str, into: Arrays) -> NDArray[Any]:
        """An output whose memory is the engine's."""
        result: NDArray[Any] = request.get_output_tensor(self._places[name]).data
        if name not in into:
            return result.copy()
        if into[name].shape != result.shape:
            raise EngineError(
                f"{self._file.where}, output {name!r}: expected an array of {result.shape}, got {into[name].shape}"
            )
        into[name][...] = result
        return into[name]

    def close(self) -> None:
        self._request = None


open_engine = SessionEngine.factory(_Session)


def kernels(bundle: Bundle, stage: str, options: RuntimeOptions) -> Kernels:
    """How OpenVINO runs the quantized products of a stage. Raises EngineError."""
    file = StageFile(bundle, stage, options)
    executed = _compiled(file, options).get_runtime_model().get_ops()
    facts = [node.get_rt_info() for node in executed]
    precisions = [fact["runtimePrecision"].astype(str) for fact in facts if fact["layerType"].astype(str) in _PRODUCTS]
    integer = sum(precision in _INTEGERS for precision in precisions)
    return Kernels(integer, max(0, file.spec.quantized_nodes - integer))


def _compiled(file: StageFile, options: RuntimeOptions) -> Any:
    openvino = require("openvino", extra="openvino")
    if not options.optimize or len(options.affinity) > 1:
        option = "optimize=False" if not options.optimize else f"affinity={options.affinity}"
        raise EngineError(f"{file.where}: OpenVINO cannot be told {option}; leave it out, or use the engine ort")
    if options.affinity and options.intra_threads != 1:
        raise EngineError(
            f"options: expected one CPU in affinity for each of {options.intra_threads} intra_threads, got "
            f"{options.affinity}; give both the same number"
        )
    if file.facts().computes_alone:
        raise EngineError(
            f"{file.where}: OpenVINO would compute constants of any size while it opens {file.path.name}; use the "
            "engine ort"
        )
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # Where the processor has bfloat16 OpenVINO would take it by itself; a bundle is proven in float32.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if options.intra_threads:
        settings["INFERENCE_NUM_THREADS"] = options.intra_threads
    try:
        return openvino.Core().compile_model(str(file.path), "CPU", settings)
    except _FAILURES as error:
        raise file.refused("OpenVINO", error) from error


def _shape(port: Any) -> tuple[int | str, ...]:
    return tuple(axis.get_length() if axis.is_static else str(axis) for axis in port.partial_shape)


def _readable(array: NDArray[Any]) -> NDArray[Any]:
    """Memory that the engine reads as it is; it takes none that may not be written."""
    array = np.ascontiguousarray(array)
    return array if array.flags.writeable else array.copy()
