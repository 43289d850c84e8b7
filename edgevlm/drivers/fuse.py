"""The `fuse` driver: encode each sampled frame and the instruction once, pool over the window, then one head.

Stages (see `manifest.FuseArgs`): vision per frame, text per instruction, pool per window, head per step. A model that
takes no words has no text stage; where there is no pool, the head has the pool's inputs itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers.policy import Text
from edgevlm.errors import BundleError
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest.contract import Contract
from edgevlm.manifest.schema import FuseArgs, Manifest, Port, StageSpec

INSTRUCTIONS_KEPT = 8


class FuseDriver:
    """See `PolicyDriver`."""

    def __init__(self, manifest: Manifest, graph: Graph) -> None:
        """Raises BundleError when the ports of the stages do not fit the driver."""
        contract, self._args = manifest.policy().contract, manifest.loop(FuseArgs)
        self._graph = graph
        self._cameras = tuple(camera.name for camera in contract.cameras)
        self._slots = len(contract.window.offsets_s)
        self._masked = contract.window.pad == "mask"
        stages = manifest.stages
        self._pixel_port = {camera: _wire_vision(stages[stage], stage) for camera, stage in self._args.vision.items()}
        self._text_ports = None if self._args.text is None else _wire_text(stages[self._args.text], self._args.text)
        self._seeing = self._args.pool or self._args.head  # the stage that takes the features of the window
        self._pool_ports = self._wire_window(stages[self._seeing].inputs)
        self._state_port = self._wire_head(manifest)
        self._head_ports = tuple(port.name for port in stages[self._args.head].inputs)

    def _wire_head(self, manifest: Manifest) -> str | None:
        """The port of the state, if the head takes one, after checking that every port has its counterpart."""
        head, contract = manifest.stages[self._args.head], manifest.policy().contract
        before = [name for name in (self._args.pool, self._args.text) if name is not None]
        makers = [port.name for stage in before for port in manifest.stages[stage].outputs]
        if self._args.pool is None:
            makers += self._pool_names
        state = [port.name for port in head.inputs if port.kind == "state"]
        needed = [port.name for port in head.inputs if port.kind != "state"]
        if len(set(makers)) != len(makers) or not set(needed) <= set(makers):
            raise _misfit(self._args.head, "inputs made once, by pool or text", needed, makers)
        if len(state) > (contract.state is not None):
            raise _misfit(self._args.head, "the state of the contract as input", [], state)
        outputs = {port.name: port.shape for port in head.outputs}
        for name, shape in _promised(contract).items():
            output_shape = outputs.get(name, ())
            if len(output_shape) != len(shape) + 1 or any(
                isinstance(d, int) and d != want for d, want in zip(output_shape[1:], shape, strict=True)
            ):
                raise _misfit(self._args.head, f"the output {name!r}", ("N", *shape), outputs)
        return state[0] if state else None

    def _wire_window(self, ports: Sequence[Port]) -> tuple[tuple[str, int], ...]:
        """(camera, slot) of every input of the window, in the ports' order; slot -1 stands for the camera's mask."""
        wiring = {f"{camera}_{slot}": (camera, slot) for camera in self._cameras for slot in range(self._slots)}
        wiring |= {f"{camera}_mask": (camera, -1) for camera in self._cameras}
        if self._args.pool is None:  # the head has other inputs as well, which `_wire_head` looks at
            ports = [port for port in ports if port.name in wiring]
        names = {port.name for port in ports}
        slots = {name for name, (_, slot) in wiring.items() if slot >= 0}
        if not slots <= names <= set(wiring):
            raise _misfit(
                self._seeing, "inputs <camera>_<slot> for every slot of the window", sorted(slots), sorted(names)
            )
        self._empty = {port.name: Value(("empty", port.name), _zeros(port)) for port in ports} if self._masked else {}
        self._pool_names = tuple(port.name for port in ports)
        return tuple(wiring[port.name] for port in ports)

    def memory(self) -> Memory:
        """A fresh session's memory: frames are kept until they leave the window, a few instructions, one step."""
        capacity = {self._args.text: INSTRUCTIONS_KEPT, self._args.pool: 1, self._args.head: 1}
        return Memory({stage: count for stage, count in capacity.items() if stage is not None})

    def encode(self, camera: str, pixels: Value, memory: Memory) -> Value:
        """The feature map of one frame, run once for each frame."""
        outputs = self._graph.run(self._args.vision[camera], {self._pixel_port[camera]: pixels}, memory)
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
        act: int = 0,
    ) -> dict[str, Value]:
        """See `PolicyDriver.run`: the outputs of the head. Nothing here is left to chance, so `act` has no part."""
        features = {
            camera: [None if pixels is None else self.encode(camera, pixels, memory) for pixels in slots]
            for camera, slots in window.items()
        }
        known: dict[str, Value] = {}
        for name, (camera, slot) in zip(self._pool_names, self._pool_ports, strict=True):
            if slot < 0:
                known[name] = _presence(features[camera])
            else:
                known[name] = features[camera][slot] or self._empty[name]
        if self._args.pool is not None:
            known = dict(self._graph.run(self._args.pool, known, memory))
        if self._args.text is not None and self._text_ports is not None and text is not None:
            known |= self._graph.run(self._args.text, dict(zip(self._text_ports, text, strict=True)), memory)
        if self._state_port is not None and state is not None:
            known[self._state_port] = state
        return self._graph.run(self._args.head, {name: known[name] for name in self._head_ports}, memory)


def _promised(contract: Contract) -> dict[str, tuple[int, ...]]:
    """Output of the head -> its shape for one observation."""
    action, plan = contract.action, contract.plan
    promised: dict[str, tuple[int, ...]] = {"chunk": (action.steps, len(action.names))}
    if plan:
        promised["waypoints"] = (len(plan.waypoint_offsets_s), len(plan.names))
        promised["step_logits"] = (len(plan.steps),)
    return promised


def _presence(slots: Sequence[Value | None]) -> Value:
    present = tuple(value is not None for value in slots)
    return Value(("present", present), np.array([present], np.float32))


def _wire_vision(stage: StageSpec, name: str) -> str:
    if stage.frame_cache == "instruction":
        raise BundleError(
            f"stage {name!r}: expected frame_cache 'frame', got 'instruction', which this version of the fuse driver "
            "cannot run; update edgevlm"
        )
    if len(stage.inputs) != 1 or len(stage.outputs) != 1:
        raise _misfit(
            name, "one input and one output", ["pixels", "features"], [p.name for p in (*stage.inputs, *stage.outputs)]
        )
    return _only(stage.inputs, "pixels", name)


def _wire_text(stage: StageSpec, name: str) -> tuple[str, str]:
    """The ports of ids and mask."""
    ports = _only(stage.inputs, "ids", name), _only(stage.inputs, "mask", name)
    if len(stage.inputs) != 2:
        raise _misfit(name, "inputs", ["ids", "mask"], [port.name for port in stage.inputs])
    return ports


def _zeros(port: Port) -> NDArray[np.float32]:
    return np.zeros([d if isinstance(d, int) else 1 for d in port.shape], np.float32)


def _only(ports: Sequence[Port], kind: str, stage: str) -> str:
    names = [port.name for port in ports if port.kind == kind]
    if len(names) != 1:
        raise _misfit(stage, f"one input of kind {kind!r}", [kind], names)
    return names[0]


def _misfit(stage: str, what: str, expected: object, got: object) -> BundleError:
    return BundleError(
        f"stage {stage!r}: the fuse driver expected {what} {expected}, got {got}; export the bundle again"
    )
