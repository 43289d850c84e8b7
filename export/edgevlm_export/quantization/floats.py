"""fp32 and fp16: no table, one graph for all forms."""

from __future__ import annotations

import onnx

from edgevlm_calibration.table import Table
from edgevlm_export.quantization.base import Quantizer, StageArtifact, single_file
from edgevlm_export.quantization.passes.fp16 import fp16
from edgevlm_export.stage_graph import Stage


class Float32(Quantizer):
    """The graph as traced."""

    precision = "fp32"

    def quantize(self, stage: Stage, model: onnx.ModelProto, table: Table | None = None) -> StageArtifact:
        """Its only file."""
        return single_file(stage.name, model, self.precision)


class Float16(Quantizer):
    """fp16 inside, fp32 at the ports."""

    precision = "fp16"

    def quantize(self, stage: Stage, model: onnx.ModelProto, table: Table | None = None) -> StageArtifact:
        """Raises QuantizationError: there is nothing to convert."""
        return single_file(stage.name, fp16(stage.name, model)[0], self.precision)
