"""The `denoise` driver: read what the robot sees and was told once, then make a chunk of noise in steps.

Stages (see `DenoiseArgs`): vision per frame, prefix per observation, step several times for one chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers.policy import PolicyDriver
from edgevlm.drivers.ports import StagePorts, Words
from edgevlm.errors import BundleError, NonFiniteError
from edgevlm.graph import Graph, Memory, Value, all_finite
from edgevlm.manifest.contract import Contract
from edgevlm.manifest.drivers import DenoiseArgs
from edgevlm.manifest.schema import PolicyManifest
from edgevlm.manifest.stages import StageSpec

CROSS = ("cross_key", "cross_value")


def noise(seed: int, act: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """What the chunk of an act is made of: the same numbers in every version of NumPy."""
    return np.random.RandomState([seed, act]).standard_normal(tuple(shape)).astype(np.float32)


def times(args: DenoiseArgs, width: int) -> NDArray[np.float32]:
    """(steps, 1, width): what each step is told of its time, 1 first. Sines of the periods, then cosines.

    A time is a float32, and what is made of it is not: that is how models of this kind were trained.
    """
    moments = np.array([1.0 + i * (-1.0 / args.steps) for i in range(args.steps)], np.float32).astype(np.float64)
    shortest, longest = args.periods
    periods = shortest * (longest / shortest) ** np.linspace(0.0, 1.0, width // 2)
    angles = moments[:, None] * (1.0 / periods * 2 * np.pi)
    encodings: NDArray[np.float32] = np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)
    return encodings[:, None]


def sample_shape(args: DenoiseArgs, stages: Mapping[str, StageSpec]) -> tuple[int, ...]:
    """(1, K, A) of the noise. Raises BundleError where the step stage has no such port."""
    step = StagePorts("denoise", args.step, stages)
    return step.fixed(step.input("sample"))


class DenoiseDriver(PolicyDriver):
    """See `PolicyDriver`."""

    def __init__(self, args: DenoiseArgs, manifest: PolicyManifest, graph: Graph, embeddings: NDArray[Any]) -> None:
        """Raises BundleError when ports or embeddings (V, H) do not fit the driver."""
        super().__init__(manifest, graph)
        self._args, contract, stages = args, manifest.contract, manifest.stages
        self._rows = embeddings
        self._shape = sample_shape(args, stages)
        self._columns = len(contract.action.names)
        prefix, step = (StagePorts("denoise", name, stages) for name in (args.prefix, args.step))
        self._words, self._mask, self._state = (prefix.input(kind).name for kind in ("embeds", "mask", "state"))
        self._sample, self._time, self._step_mask = (step.input(kind).name for kind in ("sample", "time", "mask"))
        self._velocity = step.output("velocity").name
        _check_sees_now(contract)
        self._check_prefix(prefix, stages)
        self._check_step(contract, prefix, step)
        self._times = times(args, step.fixed(step.input("time"))[-1])
        self._stride = np.float32(-1.0 / args.steps)

    def _check_prefix(self, prefix: StagePorts, stages: Mapping[str, StageSpec]) -> None:
        """Whether the stage reads the features of every camera, and nothing that nobody makes."""
        outputs = {camera: stages[stage].outputs[0] for camera, stage in self._args.vision.items()}
        expected = {camera: port.shape for camera, port in outputs.items() if port.kind == "features"}
        features = {port.name: port.shape for port in prefix.inputs if port.kind == "features"}
        known = {*features, self._words, self._mask, self._state}
        if set(expected) != set(outputs) or features != expected or {port.name for port in prefix.inputs} != known:
            raise prefix.misfit(f"the features of every camera {expected}, embeds, mask and state")
        width = prefix.input("embeds").shape[-1]
        rows = self._rows
        if rows.ndim != 2 or rows.shape[1] != width or rows.dtype not in (np.float32, np.float16):
            raise BundleError(
                f"{self._args.embeddings}: expected float32 or float16 (V, {width}), got {rows.dtype} {rows.shape}; "
                "export the bundle again"
            )

    def _check_step(self, contract: Contract, prefix: StagePorts, step: StagePorts) -> None:
        """Whether it takes what the prefix makes, and makes what the contract promises."""
        action = contract.action
        outputs = [(port.name, port.shape) for port in prefix.outputs]
        taken = [(port.name, port.shape) for port in step.inputs if port.kind in CROSS]
        if not outputs or outputs != taken or len(step.inputs) != len(taken) + 3:
            raise step.misfit(f"sample, time, mask and the outputs of prefix {outputs} as inputs", taken)
        if len(self._shape) != 3 or self._shape[1] != action.steps or self._shape[2] < self._columns:
            expected = (1, action.steps, f"{self._columns} or more")
            raise step.misfit(f"a sample of the contract's chunk {expected}", self._shape)
        velocity, time = step.fixed(step.output("velocity")), step.fixed(step.input("time"))
        if velocity != self._shape or len(time) != 2 or time[1] % 2:
            raise step.misfit(f"a velocity for the sample {self._shape}, and a time of even width", (velocity, time))

    def memory(self) -> Memory:
        """Frames are kept until they leave the window, and the prefix of one observation."""
        return Memory({self._args.prefix: 1})

    def run(
        self,
        window: Mapping[str, Sequence[Value | None]],
        text: Words | None,
        state: Value | None,
        memory: Memory,
        act: int,
    ) -> dict[str, Value]:
        """See `PolicyDriver.run`: "chunk" alone."""
        assert text is not None and state is not None  # the manifest and the wiring say that there are
        ids, mask = text
        known = {camera: self._now(camera, slots, memory) for camera, slots in window.items()}
        known[self._words] = Value(("embeds", ids.version), lambda: self._rows[ids.array].astype(np.float32))
        known |= {self._mask: mask, self._state: state}
        prefix = self._graph.run(self._args.prefix, known, memory)
        arrays = {name: value.array for name, value in prefix.items()} | {self._step_mask: mask.array}
        sample = noise(self._args.seed, act, self._shape)
        for step, encoding in enumerate(self._times):
            moving = {self._sample: sample, self._time: encoding}
            velocity = self._graph.run_state(self._args.step, arrays | moving, memory)[self._velocity]
            with np.errstate(over="ignore"):  # what is not finite is told below
                sample = (sample + self._stride * velocity).astype(np.float32, copy=False)
            if not all_finite((sample,)):
                raise NonFiniteError(
                    f"stage {self._args.step!r}: expected steps that keep the chunk finite, got infinity at the time "
                    f"step {step} of {len(self._times)}; run: edgevlm verify BUNDLE"
                )
        return {"chunk": Value(("chunk", act), sample[:, :, : self._columns])}

    def _now(self, camera: str, slots: Sequence[Value | None], memory: Memory) -> Value:
        pixels = slots[-1]
        assert pixels is not None  # a window of one slot that is not masked
        return self.encode(camera, pixels, memory)


def _check_sees_now(contract: Contract) -> None:
    if len(contract.window.offsets_s) != 1 or contract.window.pad == "mask":
        raise BundleError(
            f"contract.window: the denoise driver expected the newest frame alone, got {contract.window.offsets_s} "
            f"padded by {contract.window.pad!r}; export the bundle again"
        )
    if contract.state is None or contract.plan is not None:
        raise BundleError(
            "contract: the denoise driver expected a state and no plan, got another; export the bundle again"
        )
