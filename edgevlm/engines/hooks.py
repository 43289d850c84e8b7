"""One wrapper for whoever watches or changes what passes an engine."""

from __future__ import annotations

from edgevlm.engines.base import Engine, Tensors
from edgevlm.engines.host import Arrays, Host, HostTensors, to_numpy


class Hook:
    """Called around every run of a stage, on the host; this one changes nothing."""

    def before(self, stage: str, inputs: Arrays) -> Arrays:
        """What the stage gets instead of `inputs`."""
        return inputs

    def after(self, stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        """What the caller gets instead of `outputs`; `inputs` are those that the stage got."""
        return outputs


class HookedEngine:
    """An engine under a hook. An output that the hook changes is no longer the tensor that `outputs` names."""

    def __init__(self, engine: Engine, hook: Hook) -> None:
        self._host, self._hook = Host(engine), hook
        self.stages = engine.stages

    def run(self, stage: str, inputs: Tensors, outputs: Tensors | None = None) -> Tensors:
        arrays = self._hook.before(stage, to_numpy(inputs))
        results = self._host.run(stage, arrays, None if outputs is None else to_numpy(outputs))
        return HostTensors(self._hook.after(stage, arrays, results))

    def close(self) -> None:
        self._host.close()
