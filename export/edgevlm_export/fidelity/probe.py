"""An engine that is compared with a judge as it works: stage by stage, on the very inputs that it meets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.engines import Engine, EngineFactory, open_engine
from edgevlm.options import RuntimeOptions
from edgevlm_export.fidelity.metrics import StageMeter

Arrays = dict[str, NDArray[Any]]
# (stage, its inputs) -> what it should put out; None where the judge cannot say
Expect = Callable[[str, Mapping[str, NDArray[Any]]], Arrays | None]


class Probe:
    """An engine that tells a meter what it put out and what it should have, in those runs that are `wanted`."""

    def __init__(
        self,
        inner: Engine,
        stage: str,
        meter: StageMeter,
        expect: Expect,
        wanted: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self._inner, self._stage, self._meter, self._expect, self._wanted = inner, stage, meter, expect, wanted
        self.inputs, self.outputs = inner.inputs, inner.outputs
        self._runs = 0

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """The inner engine's outputs."""
        outputs = self._inner.run(inputs)
        if self._wanted(self._runs):
            expected = self._expect(self._stage, inputs)
            if expected is not None:
                self._meter.add(self._stage, outputs, expected)
        self._runs += 1
        return outputs

    def close(self) -> None:
        """Free the inner engine."""
        self._inner.close()


def probed(meter: StageMeter, expect: Expect, wanted: Callable[[int], bool] = lambda _: True) -> EngineFactory:
    """Engines that are compared; see `Probe`."""

    def factory(bundle: Bundle, stage: str, options: RuntimeOptions) -> Engine:
        return Probe(open_engine(bundle, stage, options), stage, meter, expect, wanted)

    return factory
