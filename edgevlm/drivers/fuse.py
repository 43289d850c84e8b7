"""The `fuse` driver: encode each sampled frame and the instruction once, pool over the window, then one head.

Stages (see `manifest.FuseArgs`): vision per frame, text per instruction, pool per window, head per step. A model that
takes no words has no text stage; where there is no pool, the head has the pool's inputs itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers.policy import PolicyDriver
from edgevlm.drivers.ports import StagePorts, Words
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest.contract import Contract
from edgevlm.manifest.drivers import FuseArgs
from edgevlm.manifest.schema import PolicyManifest
from edgevlm.manifest.stages import Port, StageSpec

INSTRUCTIONS_KEPT = 8


class FuseDriver(PolicyDriver):
    """See `PolicyDriver`."""

    def __init__(self, args: FuseArgs, manifest: PolicyManifest, graph: Graph) -> None:
        """Raises BundleError when the ports of the stages do not fit the driver."""
        super().__init__(manifest, graph)
        self._args, contract, stages = args, manifest.contract, manifest.stages
        self._cameras = tuple(camera.name for camera in contract.cameras)
        self._slots = len(contract.window.offsets_s)
        self._masked = contract.window.pad == "mask"
        self._text_ports = None if args.text is None else _wire_text(StagePorts("fuse", args.text, stages))
        self._pool_ports = self._wire_window(StagePorts("fuse", args.pool or args.head, stages))
        head = StagePorts("fuse", args.head, stages)
        self._state_port = self._wire_head(head, stages, contract)
        self._head_ports = tuple(port.name for port in head.inputs)

    def _wire_head(self, head: StagePorts, stages: Mapping[str, StageSpec], contract: Contract) -> str | None:
        """The port of the state, if the head takes one, after checking that every port has its counterpart."""
        before = [name for name in (self._args.pool, self._args.text) if name is not None]
        makers = [port.name for stage in before for port in stages[stage].outputs]
        if self._args.pool is None:
            makers += self._pool_names
        state = [port.name for port in head.inputs if port.kind == "state"]
        needed = [port.name for port in head.inputs if port.kind != "state"]
        if len(set(makers)) != len(makers) or not set(needed) <= set(makers):
            raise head.misfit(f"inputs made once, by pool or text, {needed}", makers)
        if len(state) > (contract.state is not None):
            raise head.misfit("the state of the contract as input, once at most", state)
        outputs = {port.name: port.shape for port in head.outputs}
        for name, shape in _promised(contract).items():
            output_shape = outputs.get(name, ())
            if len(output_shape) != len(shape) + 1 or any(
                isinstance(side, int) and side != size for side, size in zip(output_shape[1:], shape, strict=True)
            ):
                raise head.misfit(f"the output {name!r} of {('N', *shape)}", outputs)
        return state[0] if state else None

    def _wire_window(self, stage: StagePorts) -> tuple[tuple[str, int], ...]:
        """(camera, slot) of every input of the window, in the ports' order; slot -1 stands for the camera's mask."""
        wiring = {f"{camera}_{slot}": (camera, slot) for camera in self._cameras for slot in range(self._slots)}
        wiring |= {f"{camera}_mask": (camera, -1) for camera in self._cameras}
        ports: Sequence[Port] = stage.inputs
        if self._args.pool is None:  # the head has other inputs as well, which `_wire_head` looks at
            ports = [port for port in ports if port.name in wiring]
        names = {port.name for port in ports}
        slots = {name for name, (_, slot) in wiring.items() if slot >= 0}
        if not slots <= names <= set(wiring):
            raise stage.misfit(f"inputs <camera>_<slot> for every slot of the window {sorted(slots)}", sorted(names))
        self._empty = {port.name: Value(("empty", port.name), _zeros(port)) for port in ports} if self._masked else {}
        self._pool_names = tuple(port.name for port in ports)
        return tuple(wiring[port.name] for port in ports)

    def memory(self) -> Memory:
        """A fresh session's memory: frames are kept until they leave the window, a few instructions, one step."""
        capacity = {self._args.text: INSTRUCTIONS_KEPT, self._args.pool: 1, self._args.head: 1}
        return Memory({stage: count for stage, count in capacity.items() if stage is not None})

    def run(
        self,
        window: Mapping[str, Sequence[Value | None]],
        text: Words | None,
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


def _wire_text(stage: StagePorts) -> tuple[str, str]:
    """The ports of ids and mask."""
    if len(stage.inputs) != 2:
        raise stage.misfit("ids and mask as inputs")
    return stage.input("ids").name, stage.input("mask").name


def _zeros(port: Port) -> NDArray[np.float32]:
    return np.zeros([d if isinstance(d, int) else 1 for d in port.shape], np.float32)
