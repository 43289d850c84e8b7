"""The `regions` driver: a picture's regions and texts, encoded apart, each region compared with each text.

Stages (see `manifest.RegionsArgs`): vision per picture, text per text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers.ports import StagePorts, TextStage
from edgevlm.errors import NonFiniteError
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest.drivers import RegionsArgs
from edgevlm.manifest.stages import PortKind, StageSpec

TEXTS_KEPT = 4096  # embeddings of a few kilobytes each: every label set that people use, and a bounded memory
PICTURES_KEPT = 4  # regions of some megabytes each: the cameras of a robot, asked in turn

Array = NDArray[np.float32]
NEEDED: tuple[PortKind, ...] = ("regions", "boxes", "shift", "scale")


@dataclass(frozen=True)
class VisionOutputs:
    """What the vision stage says of one picture with N regions; read-only by convention."""

    regions: Array  # (N, D), each of length 1
    boxes: Array  # (N, 4), centre x, centre y, width, height in 0..1
    shift: Array  # (N,)
    scale: Array  # (N,)
    objectness: Array | None  # (N,), a logit; None where the model has none


class RegionsDriver:
    """Host code around the stages of one bundle; shared, holds no state."""

    def __init__(self, args: RegionsArgs, stages: Mapping[str, StageSpec], graph: Graph) -> None:
        """Raises BundleError when the ports of the stages do not fit the driver."""
        self._args, self._graph = args, graph
        vision, text = (StagePorts("regions", name, stages) for name in (args.vision, args.text))
        self._pixels, self._outputs = vision.pixels(), _outputs(vision)
        self._text = TextStage(text, graph)
        width = _check_shapes(vision)
        if self._text.width != width:
            raise text.misfit(f"an embedding (1, {width}), as wide as a region")

    def memory(self) -> Memory:
        """What one detector keeps: many texts, a few pictures."""
        return Memory({self._args.text: TEXTS_KEPT, self._args.vision: PICTURES_KEPT})

    def encode_image(self, pixels: Value, memory: Memory) -> VisionOutputs:
        """The regions of one prepared picture; a picture seen lately is not run again."""
        outputs = self._graph.run(self._args.vision, {self._pixels: pixels}, memory)
        arrays = {kind: outputs[name].array[0] for kind, name in self._outputs.items()}
        return VisionOutputs(
            arrays["regions"], arrays["boxes"], arrays["shift"], arrays["scale"], objectness=arrays.get("objectness")
        )

    def embed_text(self, ids: Value, mask: Value, memory: Memory) -> Array:
        """The vector (D,) of one text; a text seen lately is not run again."""
        return self._text.embed((ids, mask), memory)

    def logits(self, looked: VisionOutputs, texts: Sequence[Array]) -> Array:
        """`(region . text + shift) * scale` for every region and every text: (N, T). Raises NonFiniteError."""
        with np.errstate(all="ignore"):  # what is not finite is told below
            alike = looked.regions @ np.stack(texts).T
            result: Array = (alike + looked.shift[:, None]) * looked.scale[:, None]
        if not np.isfinite(result).all() or not np.isfinite(looked.boxes).all():
            raise NonFiniteError(
                f"stages {self._args.vision!r} and {self._args.text!r}: expected finite logits and boxes, got NaN or "
                "infinity; the picture or the text makes the model overflow: try an fp32 bundle"
            )
        return result

    def corners(self, looked: VisionOutputs, height: int, width: int) -> Array:
        """The boxes (N, 4) as left, top, right, bottom in pixels of a picture of (height, width).

        They are what the model says: a box may reach beyond the picture.
        """
        centre, half = looked.boxes[:, :2], np.float32(0.5) * looked.boxes[:, 2:]
        across, down = (max(height, width),) * 2 if self._args.frame == "square" else (width, height)
        size = np.array([across, down, across, down], np.float32)
        result: Array = np.concatenate([centre - half, centre + half], axis=1) * size
        return result


def _outputs(vision: StagePorts) -> dict[PortKind, str]:
    """kind -> output."""
    kinds = Counter(port.kind for port in vision.outputs)
    if not set(NEEDED) <= set(kinds) <= {*NEEDED, "objectness"} or max(kinds.values()) > 1:
        raise vision.misfit(f"{list(NEEDED)}, perhaps 'objectness', as outputs")
    return {port.kind: port.name for port in vision.outputs}


def _check_shapes(vision: StagePorts) -> int:
    """D, where there are as many boxes, shifts and scales as regions."""
    shapes = {port.kind: port.shape for port in vision.outputs}
    regions = shapes["regions"]
    if len(regions) != 3:
        raise vision.misfit("regions (1, N, D) in numbers")
    one, count, width = vision.fixed(vision.output("regions"))
    expected = {"boxes": (1, count, 4), "shift": (1, count), "scale": (1, count), "objectness": (1, count)}
    if one != 1 or any(shape != expected.get(kind, shape) for kind, shape in shapes.items()):
        raise vision.misfit(f"regions (1, N, D) and, for N = {count}, {expected}")
    return width
