"""NaN, infinity and absurd numbers at random places of a small policy: what comes out is refused, or is sound."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
from support import tiny

from edgevlm.bundle import open_bundle
from edgevlm.engines import Arrays, Hook, hooked
from edgevlm.errors import EdgevlmError
from edgevlm.manifest.contract import Stamped
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Policy

_BAD = (float("nan"), float("inf"), float("-inf"), 3e38, -3e38)
_OPTIONS = RuntimeOptions(intra_threads=1)
_CONTRACT = tiny.mono_contract()


class _Broken(Hook):
    """The outputs of one stage are broken at one place."""

    def __init__(self, rng: random.Random, stage: str) -> None:
        self._rng, self._stage = rng, stage

    def after(self, stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        if stage != self._stage:
            return outputs
        broken = {name: np.array(array) for name, array in outputs.items()}
        array = broken[self._rng.choice(sorted(broken))]
        array.flat[self._rng.randrange(array.size)] = self._rng.choice(_BAD[:3])
        return broken


class NonFinite:
    """Breaks the state, what a stage puts out, or four bytes of the weights of a bundle under hashes that fit."""

    name, unit, limit_s, memory_mb = "nonfinite", "broken numbers", 30.0, 3072

    def one(self, seed: int, directory: Path) -> str:
        rng = random.Random(seed)
        root = tiny.mono(directory / "bundle")
        what = rng.choice(("state", "output", "weights"))
        observation = tiny.observation(_CONTRACT, 0)
        hook = Hook()
        if what == "state":
            assert observation.state is not None
            values = observation.state.value.copy()
            values[rng.randrange(len(values))] = rng.choice(_BAD[:3])
            observation = replace(observation, state=Stamped(values, observation.state.stamp_ns))
        elif what == "output":
            hook = _Broken(rng, rng.choice(("vision", "text", "pool", "head")))
        else:
            self._poison(rng, root)
        try:
            with Policy(open_bundle(root), _OPTIONS, engines=hooked(hook)) as policy:
                values = policy.session().act(observation).values
        except EdgevlmError as error:
            assert len(str(error)) < 2000
            return f"{what}: {type(error).__name__}"
        raise AssertionError(f"{what}: an action came out: {values[0].tolist()}")

    def _poison(self, rng: random.Random, root: Path) -> None:
        """A bad number over one of a file's own weights, found by its bytes: raw_data of a float tensor."""
        relative = rng.choice(sorted(path.relative_to(root).as_posix() for path in (root / "stages").iterdir()))
        content = (root / relative).read_bytes()
        begin, end = rng.choice(_raw_floats(content))
        place = begin + 4 * rng.randrange((end - begin) // 4)
        tiny.refile(root, relative, content[:place] + struct.pack("<f", rng.choice(_BAD)) + content[place + 4 :])


def _raw_floats(content: bytes) -> list[tuple[int, int]]:
    """Where raw_data of float tensors lies, by onnx's own parser."""
    import onnx  # not of the runtime

    model = onnx.load_model_from_string(content)
    raw = [tensor.raw_data for tensor in model.graph.initializer if tensor.data_type == 1 and len(tensor.raw_data) >= 4]
    return [(at, at + len(data)) for data in raw if (at := content.find(data)) >= 0]
