"""The two int8 forms are one function: run as they are, without the engine's rewrites, their outputs are bit-equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar

import numpy as np

from edgevlm.bundle import Bundle
from edgevlm.data.base import Episode
from edgevlm.engines import Arrays, EngineFactory, Hook, hooked
from edgevlm.errors import FidelityError
from edgevlm.manifest.schema import Form
from edgevlm.options import RuntimeOptions
from edgevlm.tasks.policy import Policy
from edgevlm_calibration.calibrate import play
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.sampling import evenly_spaced

STEPS = 12
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


def check_bits(bundle: Bundle, episodes: tuple[Episode, ...], progress: Progress) -> dict[str, Any]:
    """How many steps and outputs were equal in both forms.

    Raises:
        FidelityError: an output differs, naming stage, output and by how much.
    """
    latest = {form: LatestOutputs() for form in FORMS}
    wanted = evenly_spaced([episode.length for episode in episodes], STEPS)
    total, done, outputs = sum(map(len, wanted)), 0, 0
    with ExitStack() as opened:
        policies = [
            opened.enter_context(Policy(bundle, bit_options(form), engines=hooked(latest[form]))) for form in FORMS
        ]
        for episode, steps in zip(episodes, wanted, strict=True):
            sessions = [policy.session() for policy in policies]
            players = [play(session, episode, steps) for session in sessions]
            for _ in zip(*players, strict=True):
                outputs += same_bits(*(latest[form] for form in FORMS))
                done += 1
                progress("compare forms", done, total)
    return {"steps": done, "outputs": outputs, "stages": sorted(latest["cpu"].stages)}


def compare_forms(
    bundle: Bundle,
    open_model: Callable[[Bundle, RuntimeOptions, EngineFactory], AbstractContextManager[Model]],
    visits: Sequence[Callable[[Model], object]],
) -> dict[str, Any]:
    """The same of a model that is asked: each visit is one question to both forms.

    Raises:
        FidelityError: an output differs, naming stage, output and by how much.
    """
    latest = {form: LatestOutputs() for form in FORMS}
    outputs = 0
    with ExitStack() as opened:
        models = [opened.enter_context(open_model(bundle, bit_options(form), hooked(latest[form]))) for form in FORMS]
        for visit in visits:
            for model in models:
                visit(model)
            outputs += same_bits(latest["tensorrt"], latest["cpu"])
    return {"steps": len(visits), "outputs": outputs, "stages": sorted(latest["cpu"].stages)}


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
