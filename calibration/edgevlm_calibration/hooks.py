"""What a calibration watches while a model runs: the values of tensors that become int8, or the inputs of stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgevlm.bundle import Bundle
from edgevlm.engines import Arrays, Engine, Hook, HookedEngine, HostTensors, Tensors, to_numpy
from edgevlm.errors import CalibrationError, EngineError
from edgevlm.graph import all_finite
from edgevlm.options import RuntimeOptions
from edgevlm_calibration.observers import HistogramObserver
from edgevlm_calibration.onnx_models import open_model
from edgevlm_calibration.quantizable_nodes import quantizable_nodes, tensors

Ranges = dict[str, dict[str, HistogramObserver]]  # stage -> tensor -> its values
Feeds = dict[str, list[dict[str, NDArray[Any]]]]  # stage -> its inputs, run by run


class Observer(Hook):
    """Counts the values of every tensor that becomes int8; a model opens under it by `engines=observer.open`.

    Attributes:
        ranges: of every stage, also of one that was not run.
        runs: stage -> its runs.
    """

    def __init__(self) -> None:
        self.ranges: Ranges = {}
        self.runs: Counter[str] = Counter()

    def open(self, bundle: Bundle, stages: Collection[str], options: RuntimeOptions) -> Engine:
        """An EngineFactory: stages in ONNX Runtime that also put out what is counted."""
        self._bundle = bundle
        sessions = {stage: self._open(stage, options) for stage in stages}
        return HookedEngine(_Sessions(sessions, bundle), self)

    def _open(self, stage: str, options: RuntimeOptions) -> Any:
        spec = self._bundle.manifest.stages[stage]
        model = onnx.load(self._bundle.path(spec.forms["cpu"]))
        self.ranges[stage] = {name: HistogramObserver() for name in tensors(quantizable_nodes(model))}
        ports = {port.name for port in (*spec.inputs, *spec.outputs)}
        for name in self.ranges[stage]:
            if name not in ports:
                model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        return open_model(model, options)

    def after(self, stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        """The outputs that the manifest has."""
        self.runs[stage] += 1
        values = {**inputs, **outputs}
        for name, observer in self.ranges[stage].items():
            if not all_finite((values[name],)):
                raise CalibrationError(
                    f"stage {stage!r} of {self._bundle.root}: expected finite numbers in {name!r} on the data of the "
                    "calibration, got NaN or infinity, which int8 would hide; export with --precision fp32, or from a "
                    "sound checkpoint"
                )
            observer.add(values[name])
        return {port.name: outputs[port.name] for port in self._bundle.manifest.stages[stage].outputs}


class _Sessions:
    """An engine of sessions that are open."""

    def __init__(self, sessions: Mapping[str, Any], bundle: Bundle) -> None:
        self._sessions, self._root = dict(sessions), bundle.root
        self.stages = tuple(sessions)

    def run(self, stage: str, inputs: Tensors, outputs: Tensors | None = None) -> Tensors:
        session = self._sessions[stage]
        names = [item.name for item in session.get_outputs()]
        try:
            results = session.run(names, dict(to_numpy(inputs)))
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"stage {stage!r} of {self._root}: {error}") from error
        return HostTensors(dict(zip(names, results, strict=True)))

    def close(self) -> None:
        self._sessions.clear()


class Recorder(Hook):
    """Holds the inputs of every run, copied: the past of a decoder is a view of buffers that are written on.

    Attributes:
        feeds: of every stage, also of one that was not run.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.feeds: Feeds = {stage: [] for stage in bundle.manifest.stages}

    def before(self, stage: str, inputs: Arrays) -> Arrays:
        """The inputs as they are."""
        self.feeds[stage].append({name: np.array(value) for name, value in inputs.items()})
        return inputs
