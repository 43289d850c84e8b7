"""The two int8 forms are one function: run as they are, without the engine's rewrites, their outputs are bit-equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.data.base import Episode
from edgevlm.engines import Engine, EngineFactory, open_engine
from edgevlm.errors import FidelityError
from edgevlm.manifest.schema import Form
from edgevlm.options import RuntimeOptions
from edgevlm.tasks.policy import Policy
from edgevlm_calibration.calibrate import play
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.sampling import evenly_spaced

STEPS = 12
FORMS: tuple[Form, Form] = ("tensorrt", "cpu")

Latest = dict[str, Mapping[str, NDArray[Any]]]  # stage -> its latest outputs
Model = TypeVar("Model")


class _Keeping:
    def __init__(self, inner: Engine, stage: str, latest: Latest) -> None:
        self._inner, self._stage, self._latest = inner, stage, latest
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = self._inner.run(inputs)
        self._latest[self._stage] = outputs
        return outputs

    def close(self) -> None:
        self._inner.close()


def check_bits(bundle: Bundle, episodes: tuple[Episode, ...], progress: Progress) -> dict[str, Any]:
    """How many steps and outputs were equal in both forms.

    Raises:
        FidelityError: an output differs, naming stage, output and by how much.
    """
    latest: dict[Form, Latest] = {form: {} for form in FORMS}
    wanted = evenly_spaced([episode.length for episode in episodes], STEPS)
    total, done, outputs = sum(map(len, wanted)), 0, 0
    with ExitStack() as opened:
        policies = [
            opened.enter_context(Policy(bundle, bit_options(form), engines=keeping(latest[form]))) for form in FORMS
        ]
        for episode, steps in zip(episodes, wanted, strict=True):
            sessions = [policy.session() for policy in policies]
            players = [play(session, episode, steps) for session in sessions]
            for _ in zip(*players, strict=True):
                outputs += same_bits(*(latest[form] for form in FORMS))
                done += 1
                progress("compare forms", done, total)
    return {"steps": done, "outputs": outputs, "stages": sorted(latest["cpu"])}


def compare_forms(
    bundle: Bundle,
    open_model: Callable[[Bundle, RuntimeOptions, EngineFactory], AbstractContextManager[Model]],
    visits: Sequence[Callable[[Model], object]],
) -> dict[str, Any]:
    """The same of a model that is asked: each visit is one question to both forms.

    Raises:
        FidelityError: an output differs, naming stage, output and by how much.
    """
    latest: dict[Form, Latest] = {form: {} for form in FORMS}
    outputs = 0
    with ExitStack() as opened:
        models = [opened.enter_context(open_model(bundle, bit_options(form), keeping(latest[form]))) for form in FORMS]
        for visit in visits:
            for model in models:
                visit(model)
            outputs += same_bits(latest["tensorrt"], latest["cpu"])
    return {"steps": len(visits), "outputs": outputs, "stages": sorted(latest["cpu"])}


def same_bits(tensorrt: Latest, cpu: Latest) -> int:
    """How many outputs were equal, which is all of them. Raises FidelityError."""
    for stage, outputs in tensorrt.items():
        for name, value in outputs.items():
            if not np.array_equal(value, cpu[stage][name]):
                gap = float(np.abs(value - cpu[stage][name]).max())
                raise FidelityError(
                    f"stage {stage!r}, output {name!r}: expected the TensorRT and the CPU form to be bit-equal "
                    f"without engine rewrites, they differ by up to {gap:.3g}; the pass u8_activations is at fault"
                )
    return sum(len(outputs) for outputs in tensorrt.values())


def differing_forms(bundle: Bundle) -> tuple[Form, ...]:
    """The forms that differ, the runtime's own first; fp32 and fp16 have one file for both."""
    differ = any(len(set(stage.forms.values())) > 1 for stage in bundle.manifest.stages.values())
    return FORMS[::-1] if differ else ("cpu",)


def bit_options(form: Form) -> RuntimeOptions:
    """One form without the engine's rewrites."""
    return RuntimeOptions(engine="ort", form=form, intra_threads=1, optimize=False)


def keeping(latest: Latest) -> EngineFactory:
    """Engines that note their latest outputs in `latest`."""

    def factory(bundle: Bundle, stage: str, options: RuntimeOptions) -> Engine:
        return _Keeping(open_engine(bundle, stage, options), stage, latest)

    return factory
