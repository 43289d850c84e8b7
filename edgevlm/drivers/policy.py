"""What a policy asks of its driver, whichever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from edgevlm.drivers.ports import StagePorts, Words
from edgevlm.errors import BundleError
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest.schema import PolicyManifest


class PolicyDriver(ABC):
    """Host code around the stages of one bundle; shared by sessions, holds no state.

    Raises:
        BundleError: the ports of the stages do not fit the driver.
    """

    def __init__(self, manifest: PolicyManifest, graph: Graph) -> None:
        self._graph, self._name = graph, manifest.driver.name
        self._vision = manifest.driver.args.vision
        self._pixels = {
            camera: _pixels(StagePorts(self._name, stage, manifest.stages)) for camera, stage in self._vision.items()
        }

    @abstractmethod
    def memory(self) -> Memory:
        """A fresh session's memory."""

    def encode(self, camera: str, pixels: Value, memory: Memory) -> Value:
        """The features of one frame, run once for each frame."""
        outputs = self._graph.run(self._vision[camera], {self._pixels[camera]: pixels}, memory)
        return next(iter(outputs.values()))

    def forget(self, camera: str, pixels: Value, memory: Memory) -> None:
        """A frame left the window: let its features go."""
        memory.forget(self._vision[camera], (pixels.version,))

    def encodes(self, memory: Memory) -> int:
        """Image encodes since the session began, over all cameras."""
        return sum(memory.runs.get(stage, 0) for stage in set(self._vision.values()))

    @abstractmethod
    def run(
        self,
        window: Mapping[str, Sequence[Value | None]],
        text: Words | None,
        state: Value | None,
        memory: Memory,
        act: int,
    ) -> dict[str, Value]:
        """What the model puts out, normalised: "chunk" (1, K, A) and, with a plan, "waypoints" and "step_logits".

        Args:
            window: camera -> pixels of every slot, oldest first; None where a slot is masked.
            text: None where the model takes no words.
            state: normalised (1, S).
            act: how many acts there were since the session's last reset; all that chance may depend on.
        """


def _pixels(vision: StagePorts) -> str:
    if vision.stage.frame_cache == "instruction":
        raise BundleError(
            f"stage {vision.name!r}: expected frame_cache 'frame', got 'instruction', which this version cannot run; "
            "update edgevlm"
        )
    if len(vision.outputs) != 1:
        raise vision.misfit("pixels as input and the features of one frame as output")
    return vision.pixels()
