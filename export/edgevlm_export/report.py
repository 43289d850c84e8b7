"""What an export did, as frozen values and as JSON. Nothing here prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgevlm.bundle import Bundle
from edgevlm.engines import Kernels, quantized_kernels
from edgevlm.options import RuntimeOptions


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


def export_report(bundle: Bundle, samples: int, fidelity: dict[str, Any], warnings: Sequence[str]) -> ExportReport:
    """What a bundle is; `warnings` of its data, to which stages that its engine slows down are added."""
    manifest, kernels = bundle.manifest, quantized_kernels(bundle, RuntimeOptions())
    stages = tuple(
        StageReport(
            stage=name,
            precision=spec.precision,
            reason=spec.reason,
            quantized_nodes=spec.quantized_nodes,
            bytes={form: manifest.files[path].bytes for form, path in sorted(spec.forms.items())},
        )
        for name, spec in manifest.stages.items()
    )
    return ExportReport(
        bundle_sha256=bundle.sha256,
        family=manifest.family,
        precision=manifest.precision,
        stages=stages,
        samples=samples,
        fidelity=fidelity,
        integer_kernels=kernels,
        warnings=(*warnings, *_slow(kernels)),
    )


def _slow(kernels: Mapping[str, Kernels]) -> Iterator[str]:
    for stage, each in kernels.items():
        if each.dequantized:
            yield (
                f"stage {stage!r}: {each.dequantized} of {sum(each)} quantized products are computed in floats by this "
                "engine, slower than a float stage; time it with `edgevlm profile`, or use another engine version"
            )
