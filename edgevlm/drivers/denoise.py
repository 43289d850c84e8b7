"""The `denoise` driver: read what the robot sees and was told once, then make a chunk of noise in steps.

Stages (see `DenoiseArgs`): vision per frame, prefix per observation, step several times for one chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers.policy import Text
from edgevlm.errors import BundleError, NonFiniteError
from edgevlm.graph import Graph, Memory, Value, all_finite
from edgevlm.manifest.contract import Contract
from edgevlm.manifest.schema import DenoiseArgs, Manifest, Port, PortKind, StageSpec

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


def sample_shape(manifest: Manifest) -> tuple[int, ...]:
    """(1, K, A) of the noise. Raises BundleError where the step stage has no such port."""
    args = manifest.loop(DenoiseArgs)
    port = _only(args.step, manifest.stages[args.step].inputs, "sample")
    return _fixed(args.step, port)


class DenoiseDriver:
    """See `PolicyDriver`."""

    def __init__(self, manifest: Manifest, graph: Graph, embeddings: NDArray[Any]) -> None:
        """Raises BundleError when ports or embeddings (V, H) do not fit the driver."""
        self._args, contract, stages = manifest.loop(DenoiseArgs), manifest.policy().contract, manifest.stages
        self._graph, self._rows = graph, embeddings
        self._pixels = {camera: _wire_vision(stages[stage], stage) for camera, stage in self._args.vision.items()}
        self._shape = sample_shape(manifest)
        self._columns = len(contract.action.names)
        prefix, step = stages[self._args.prefix], stages[self._args.step]
        self._words, self._mask, self._state = (
            _only(self._args.prefix, prefix.inputs, kind).name for kind in ("embeds", "mask", "state")
        )
        self._sample, self._time, self._step_mask = (
            _only(self._args.step, step.inputs, kind).name for kind in ("sample", "time", "mask")
        )
        self._velocity = _only(self._args.step, step.outputs, "velocity").name
        _check_sees_now(contract)
        self._check_prefix(stages)
        self._check_step(contract, prefix, step)
        time = _fixed(self._args.step, _only(self._args.step, step.inputs, "time"))
        self._times = times(self._args, time[-1])
        self._stride = np.float32(-1.0 / self._args.steps)

    def _check_prefix(self, stages: Mapping[str, StageSpec]) -> None:
        """Whether the stage reads the features of every camera, and nothing that nobody makes."""
        name, prefix = self._args.prefix, stages[self._args.prefix]
        expected = {camera: stages[stage].outputs[0].shape for camera, stage in self._args.vision.items()}
        features = {port.name: port.shape for port in prefix.inputs if port.kind == "features"}
        known = {*features, self._words, self._mask, self._state}
        if features != expected or {port.name for port in prefix.inputs} != known:
            raise _misfit(name, "the features of every camera, embeds, mask and state", expected, features)
        width = _only(name, prefix.inputs, "embeds").shape[-1]
        rows = self._rows
        if rows.ndim != 2 or rows.shape[1] != width or rows.dtype not in (np.float32, np.float16):
            raise BundleError(
                f"{self._args.embeddings}: expected float32 or float16 (V, {width}), got {rows.dtype} {rows.shape}; "
                "export the bundle again"
            )

    def _check_step(self, contract: Contract, prefix: StageSpec, step: StageSpec) -> None:
        """Whether it takes what the prefix makes, and makes what the contract promises."""
        name, action = self._args.step, contract.action
        outputs = [(port.name, port.shape) for port in prefix.outputs]
        taken = [(port.name, port.shape) for port in step.inputs if port.kind in CROSS]
        if not outputs or outputs != taken or len(step.inputs) != len(taken) + 3:
            raise _misfit(name, "sample, time, mask and the outputs of prefix as inputs", outputs, taken)
        if len(self._shape) != 3 or self._shape[1] != action.steps or self._shape[2] < self._columns:
            expected = (1, action.steps, f"{self._columns} or more")
            raise _misfit(name, "a sample of the contract's chunk", expected, self._shape)
        velocity = _fixed(name, _only(name, step.outputs, "velocity"))
        time = _fixed(name, _only(name, step.inputs, "time"))
        if velocity != self._shape or len(time) != 2 or time[1] % 2:
            raise _misfit(name, "a velocity for the sample, and a time of even width", self._shape, (velocity, time))

    def memory(self) -> Memory:
        """Frames are kept until they leave the window, and the prefix of one observation."""
        return Memory({self._args.prefix: 1})

    def encode(self, camera: str, pixels: Value, memory: Memory) -> Value:
        """The features of one frame, run once for each frame."""
        outputs = self._graph.run(self._args.vision[camera], {self._pixels[camera]: pixels}, memory)
        return next(iter(outputs.values()))

    def forget(self, camera: str, pixels: Value, memory: Memory) -> None:
        """A frame left the window: let its features go."""
        memory.forget(self._args.vision[camera], (pixels.version,))

    def encodes(self, memory: Memory) -> int:
        """Image encodes since the session began, over all cameras."""
        return sum(memory.runs.get(stage, 0) for stage in set(self._args.vision.values()))

    def run(
        self,
        window: Mapping[str, Sequence[Value | None]],
        text: Text | None,
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


def _wire_vision(stage: StageSpec, name: str) -> str:
    kinds = [port.kind for port in (*stage.inputs, *stage.outputs)]
    if kinds != ["pixels", "features"] or stage.frame_cache == "instruction":
        raise _misfit(name, "pixels in, features out, of a frame alone", ["pixels", "features"], kinds)
    return stage.inputs[0].name


def _only(stage: str, ports: Sequence[Port], kind: PortKind) -> Port:
    matches = [port for port in ports if port.kind == kind]
    if len(matches) != 1:
        raise _misfit(stage, f"one port of kind {kind!r}", [kind], [port.name for port in matches])
    return matches[0]


def _fixed(stage: str, port: Port) -> tuple[int, ...]:
    sizes = tuple(dim for dim in port.shape if isinstance(dim, int))
    if len(sizes) != len(port.shape):
        raise _misfit(stage, f"a fixed shape of {port.name!r}", "numbers", port.shape)
    return sizes


def _misfit(stage: str, what: str, expected: object, got: object) -> BundleError:
    return BundleError(
        f"stage {stage!r}: the denoise driver expected {what} {expected}, got {got}; export the bundle again"
    )
