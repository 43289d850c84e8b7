"""What an export did, as frozen values and as JSON. Nothing here prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgevlm.engines import Kernels
from edgevlm.manifest.schema import Manifest


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """One stage of the bundle; `bytes` of the file of each form."""

    stage: str
    precision: str
    reason: str
    quantized_nodes: int
    bytes: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """An export that is done: the bundle is in its place and proven.

    Attributes:
        fidelity: the figures that also lie in records/fidelity.json.
        samples: steps calibrated on; 0 without calibration.
        integer_kernels: how the engine here runs the quantized products of each int8 stage.
    """

    bundle_sha256: str
    family: str
    precision: str
    stages: tuple[StageReport, ...]
    samples: int
    fidelity: dict[str, Any]
    integer_kernels: Mapping[str, Kernels]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        kernels = {stage: each._asdict() for stage, each in self.integer_kernels.items()}
        return {**asdict(self), "integer_kernels": kernels}


def stage_reports(manifest: Manifest) -> tuple[StageReport, ...]:
    """One row for each stage of a manifest."""
    return tuple(
        StageReport(
            stage=name,
            precision=spec.precision,
            reason=spec.reason,
            quantized_nodes=spec.quantized_nodes,
            bytes={form: manifest.files[path].bytes for form, path in sorted(spec.forms.items())},
        )
        for name, spec in manifest.stages.items()
    )
