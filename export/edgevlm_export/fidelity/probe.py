"""An engine that is compared with a reference as it works: stage by stage, on the very inputs that it meets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from edgevlm.engines import Arrays, Hook
from edgevlm_export.fidelity.metrics import StageMeter

# (stage, its inputs) -> the outputs that are expected; None where the reference has none
Expect = Callable[[str, Arrays], Arrays | None]


class Probe(Hook):
    """Tells a meter the outputs and the expected ones of those runs of each stage that `compares` names."""

    def __init__(self, meter: StageMeter, expect: Expect, compares: Callable[[int], bool] = lambda _: True) -> None:
        self.meter, self._expect, self._compares = meter, expect, compares
        self._runs: Counter[str] = Counter()

    def after(self, stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        """The outputs as they are."""
        if self._compares(self._runs[stage]):
            expected = self._expect(stage, inputs)
            if expected is not None:
                self.meter.add(stage, outputs, expected)
        self._runs[stage] += 1
        return outputs
