"""The seam of quantizers: what an export asks of a precision, and a stage in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevlm.manifest.schema import Form, Precision
from edgevlm.options import RuntimeOptions
from edgevlm_calibration.hooks import Feeds
from edgevlm_calibration.onnx_models import open_model
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.table import Table
from edgevlm_export.stage_graph import Stage

Models = Mapping[str, onnx.ModelProto]  # stage -> graph


@dataclass(frozen=True)
class StageArtifact:
    """A stage as it goes into the bundle: file name -> graph, form -> file name.

    Attributes:
        reason: why it is not in the precision of the export.
        cosine: the worst one with its fp32 form; None where it was not measured.
    """

    files: Mapping[str, onnx.ModelProto]
    forms: Mapping[Form, str]
    precision: Precision
    reason: str = ""
    quantized_nodes: int = 0
    cosine: float | None = None

    def model(self, form: Form) -> onnx.ModelProto:
        """The graph of a form."""
        return self.files[self.forms[form]]


class Quantizer(Protocol):
    """How stages are made in one precision; a row of `QUANTIZERS`.

    Attributes:
        precision: what manifests call it.
        needs_table: whether it needs ranges of activations, which take calibration data of the user's.
        measured: whether each stage is compared with its fp32 form on recorded inputs, and goes back to that form
            where the precision costs too much; else only the complete bundle is judged.
    """

    precision: ClassVar[Precision]
    needs_table: ClassVar[bool] = False
    measured: ClassVar[bool] = False

    def prepare(self, models: Models, feeds: Feeds, progress: Progress) -> Models:
        """The same functions, in a form that suits the precision better; `feeds` are recorded where `measured`."""
        return models

    def quantize(self, stage: Stage, model: onnx.ModelProto, table: Table | None) -> StageArtifact:
        """One stage in this precision; `model` stays as it is. `table` is there where `needs_table`.

        Raises:
            CalibrationError: the table has no ranges for this stage.
            QuantizationError: there is nothing to convert.
        """
        ...


def single_file(stage: str, model: onnx.ModelProto, precision: Precision, reason: str = "") -> StageArtifact:
    """One graph for all forms."""
    file = f"{stage}.onnx"
    return StageArtifact({file: model}, {"cpu": file, "tensorrt": file}, precision, reason)


def outputs(model: onnx.ModelProto, inputs: Sequence[Mapping[str, NDArray[Any]]]) -> list[NDArray[np.float32]]:
    """The first output for each of `inputs`, in ONNX Runtime on one thread."""
    return [values[0] for values in outputs_of(model, inputs, (model.graph.output[0].name,))]


def outputs_of(
    model: onnx.ModelProto, inputs: Sequence[Mapping[str, NDArray[Any]]], names: Sequence[str]
) -> Iterator[list[NDArray[Any]]]:
    """The outputs of these names for each of `inputs` in turn."""
    session = open_model(model, RuntimeOptions(intra_threads=1))
    for one in inputs:
        yield session.run(list(names), dict(one))
