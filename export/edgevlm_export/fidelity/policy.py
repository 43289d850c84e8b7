"""Who says what the right answer is: the original model, or another bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.drivers.denoise import noise
from edgevlm.engines import Arrays, Host, open_engine
from edgevlm.errors import FamilyError
from edgevlm.manifest.contract import ActionChunk, Contract, Observation, Plan
from edgevlm.manifest.drivers import DenoiseArgs
from edgevlm.manifest.schema import PolicyManifest
from edgevlm.options import RuntimeOptions
from edgevlm.preprocess import Preprocessor
from edgevlm.tasks.action_decoder import ActionDecoder, PlanDecoder
from edgevlm.tasks.policy import Policy
from edgevlm.temporal import FrameRing
from edgevlm.text import Tokenizer
from edgevlm_export.stage_graph import PolicyGraph, WindowInputs, one_thread, stage_outputs


@dataclass(frozen=True)
class Decision:
    """What a model decided in one step, in the units of the contract."""

    values: NDArray[np.float32]  # (K, A)
    plan: Plan | None


class PolicyReference(Protocol):
    """Shown the same observations as the bundle, in the same order."""

    kind: str
    sha256: str
    contract: Contract

    def reset(self) -> None: ...

    def see(self, observation: Observation) -> None: ...

    def act(self, observation: Observation) -> Decision: ...

    def stage(self, name: str, inputs: Arrays) -> Arrays | None: ...


def decision(chunk: ActionChunk) -> Decision:
    """What a policy decided."""
    return Decision(chunk.values, chunk.plan)


@dataclass(frozen=True)
class _Frame:
    stamp_ns: int
    pixels: NDArray[np.float32]  # (1, 3, H, W)


class CheckpointReference:
    """The PyTorch model in one native forward over the window; preprocess, window and tokenizer are the runtime's."""

    def __init__(self, graph: PolicyGraph) -> None:
        self.kind, self.sha256, self.contract = "checkpoint", graph.source_sha256, graph.contract
        self._graph = graph
        self._modules = {stage.name: stage for stage in graph.stages}
        contract = graph.contract
        self._preprocessors = {
            camera.name: Preprocessor(camera, graph.preprocess[camera.name]) for camera in contract.cameras
        }
        self._tokenizer = None
        if graph.tokenizer is not None and contract.instruction is not None:
            self._tokenizer = Tokenizer(graph.tokenizer, contract.instruction)
        self._decode = ActionDecoder(contract.action)
        self._decode_plan = PlanDecoder(contract.plan, contract.state) if contract.plan else None
        fields = contract.state.fields if contract.state else ()
        self._mean = np.array([field.mean for field in fields], np.float32)
        self._std = np.array([field.std for field in fields], np.float32)
        self.reset()

    def reset(self) -> None:
        """A new episode begins."""
        window = self.contract.window
        self._rings: dict[str, FrameRing[_Frame]] = {camera.name: FrameRing(window) for camera in self.contract.cameras}
        self._acts = 0

    def see(self, observation: Observation) -> None:
        """Take the frames without acting."""
        for name, frame in observation.frames.items():
            ring = self._rings[name]
            if ring.newest is None or ring.newest.stamp_ns < frame.stamp_ns:
                ring.add(_Frame(frame.stamp_ns, self._preprocessors[name](frame.value)))

    def act(self, observation: Observation) -> Decision:
        """The original's decision, in the contract's units."""
        self.see(observation)
        now_ns = max(frame.stamp_ns for frame in observation.frames.values())
        ids, mask = self._words(observation.instruction)
        state = None if observation.state is None else np.asarray(observation.state.value, np.float32)
        normalized = None if state is None else ((state - self._mean) / self._std)[None]
        pixels = {name: self._pixels(ring, now_ns) for name, ring in self._rings.items()}
        given = WindowInputs(pixels=pixels, ids=ids, mask=mask, state=normalized, noise=self._noise())
        self._acts += 1
        with one_thread():
            outputs = self._graph.reference(given)
        plan = None
        if self._decode_plan is not None:
            plan = self._decode_plan(outputs["waypoints"], outputs["step_logits"], state, now_ns)
        return Decision(self._decode(outputs["chunk"]), plan)

    def stage(self, name: str, inputs: Arrays) -> Arrays | None:
        """The stage's module in PyTorch on the same inputs."""
        return stage_outputs(self._modules[name], inputs)

    def _noise(self) -> NDArray[np.float32] | None:
        """What the runtime makes this act's chunk of."""
        args = self._graph.driver.args
        if not isinstance(args, DenoiseArgs):
            return None
        sample = next(port for port in self._modules[args.step].inputs if port.kind == "sample")
        return noise(args.seed, self._acts, [int(dim) for dim in sample.shape])

    def _words(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]] | tuple[None, None]:
        if self._tokenizer is None:
            return None, None
        ids, mask = self._tokenizer.encode(text)
        return ids.copy(), mask.copy()

    def _pixels(self, ring: FrameRing[_Frame], now_ns: int) -> NDArray[np.float32]:
        frames = [frame.pixels for frame in ring.window(now_ns) if frame is not None]
        if len(frames) != len(self.contract.window.offsets_s):
            raise FamilyError("the original model has no way to mask a frame: window.pad must be `repeat` or `wait`")
        return np.concatenate(frames)


class BundleReference:
    """Another bundle of the same contract, through the runtime."""

    def __init__(self, bundle: Bundle, options: RuntimeOptions) -> None:
        self.kind, self.sha256 = "bundle", bundle.sha256
        self.contract = bundle.manifest.require(PolicyManifest).contract
        self._stages = bundle.manifest.stages
        self._host = Host(open_engine(bundle, self._stages, options))
        self._policy = Policy(bundle, options)
        self._session = self._policy.session()

    def reset(self) -> None:
        """A new episode begins."""
        self._session = self._policy.session()

    def see(self, observation: Observation) -> None:
        """Take the frames without acting."""
        for camera, frame in observation.frames.items():
            self._session.push(camera, frame)

    def act(self, observation: Observation) -> Decision:
        """The other bundle's decision."""
        return decision(self._session.act(observation))

    def stage(self, name: str, inputs: Arrays) -> Arrays | None:
        """The other bundle's stage of that name on the same inputs; None if it has none with these ports."""
        spec = self._stages.get(name)
        fits = spec is not None and {port.name for port in spec.inputs} == set(inputs)
        return self._host.run(name, inputs) if fits else None
