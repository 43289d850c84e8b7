"""The two int8 forms are one function: run as they are, without the engine's rewrites, their outputs are bit-equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import numpy as np

from edgevlm.bundle import Bundle
from edgevlm.engines import Arrays, Hook, hooked
from edgevlm.errors import FidelityError
from edgevlm.manifest.schema import Form
from edgevlm.options import RuntimeOptions
from edgevlm_calibration.progress import Progress, silent
from edgevlm_calibration.runner import CalibrationSample, OpenModel

FORMS: tuple[Form, Form] = ("tensorrt", "cpu")

Model = TypeVar("Model")


class LatestOutputs(Hook):
    """Holds the latest outputs of each stage."""

    def __init__(self) -> None:
        self.stages: dict[str, Arrays] = {}

    def after(self, stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        """The outputs as they are."""
        self.stages[stage] = outputs
        return outputs


def compare_forms(
    bundle: Bundle,
    open_model: OpenModel[Model],
    play: Callable[[Model, Sequence[CalibrationSample]], Iterator[object]],
    samples: Sequence[CalibrationSample],
    progress: Progress = silent,
) -> dict[str, Any]:
    """How many samples and outputs were equal in both forms; `play` as in a CalibrationRun.

    Raises:
        FidelityError: an output differs, naming stage, output and by how much.
    """
    latest = {form: LatestOutputs() for form in FORMS}
    done, outputs = 0, 0
    with ExitStack() as opened:
        models = [
            opened.enter_context(open_model(bundle, bit_options(form), engines=hooked(latest[form]))) for form in FORMS
        ]
        for done, _ in enumerate(zip(*(play(model, samples) for model in models), strict=True), 1):
            outputs += same_bits(latest["tensorrt"], latest["cpu"])
            progress("compare forms", done, len(samples))
    return {"steps": done, "outputs": outputs, "stages": sorted(latest["cpu"].stages)}


def same_bits(tensorrt: LatestOutputs, cpu: LatestOutputs) -> int:
    """How many outputs were equal, which is all of them. Raises FidelityError."""
    for stage, outputs in tensorrt.stages.items():
        for name, value in outputs.items():
            if not np.array_equal(value, cpu.stages[stage][name]):
                gap = float(np.abs(value - cpu.stages[stage][name]).max())
                raise FidelityError(
                    f"stage {stage!r}, output {name!r}: expected the TensorRT and the CPU form to be bit-equal "
                    f"without engine rewrites, they differ by up to {gap:.3g}; the pass u8_activations is at fault"
                )
    return sum(len(outputs) for outputs in tensorrt.stages.values())


def differing_forms(bundle: Bundle) -> tuple[Form, ...]:
    """The forms that differ, the runtime's own first; fp32 and fp16 have one file for both."""
    differ = any(len(set(stage.forms.values())) > 1 for stage in bundle.manifest.stages.values())
    return FORMS[::-1] if differ else ("cpu",)


def bit_options(form: Form) -> RuntimeOptions:
    """One form without the engine's rewrites."""
    return RuntimeOptions(engine="ort", form=form, intra_threads=1, optimize=False)
