"""The model as one batch function of a whole window: every stage run afresh, nothing remembered: an oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import open_bundle
from edgevlm.engines import Host, open_engine
from edgevlm.manifest.contract import SECOND_NS, Observation, WindowSpec
from edgevlm.options import RuntimeOptions
from edgevlm.preprocess import Preprocessor
from edgevlm.text import Tokenizer

Image = NDArray[np.uint8]


class Batch:
    """Raw outputs of the head for images of every slot, oldest first; None where a slot is masked."""

    def __init__(self, root: Path) -> None:
        bundle = open_bundle(root)
        self._manifest, contract = bundle.manifest, bundle.manifest.contract
        self.contract = contract
        self._host = Host(open_engine(bundle, self._manifest.stages, RuntimeOptions()))
        self._preprocess = {c.name: Preprocessor(c, self._manifest.preprocess[c.name]) for c in contract.cameras}
        self._tokenizer = Tokenizer(bundle.path(self._manifest.tokenizer), contract.instruction)

    def __call__(
        self, window: Mapping[str, Sequence[Image | None]], instruction: str, state: Sequence[float] | None
    ) -> dict[str, NDArray[np.float32]]:
        known: dict[str, NDArray[Any]] = {}
        for camera, images in window.items():
            vision = self._manifest.driver.args.vision[camera]
            for slot, picture in enumerate(images):
                pixels = self._preprocess[camera](
                    np.zeros(self._shape(camera), np.uint8) if picture is None else picture
                )
                features = self._host.run(vision, {"pixels": pixels})["features"]
                known[f"{camera}_{slot}"] = np.zeros_like(features) if picture is None else features
            known[f"{camera}_mask"] = np.float32([[picture is not None for picture in images]])
        known["ids"], known["mask"] = self._tokenizer.encode(instruction)
        if state is not None and self.contract.state is not None:
            fields = self.contract.state.fields
            known["state"] = np.float32([[(v - f.mean) / f.std for v, f in zip(state, fields, strict=True)]])
        for name in ("text", "pool", "head"):
            outputs = self._host.run(name, {port.name: known[port.name] for port in self._manifest.stages[name].inputs})
            known |= outputs
        return outputs

    def _shape(self, camera: str) -> tuple[int, ...]:
        return {spec.name: spec.shape for spec in self.contract.cameras}[camera]

    def values(self, history: History, now_ns: int, observation: Observation) -> NDArray[np.float32]:
        """The chunk in physical units for all frames that came so far."""
        state = observation.state.value.tolist() if observation.state else None
        window = {camera: slots(frames, now_ns, self.contract.window) for camera, frames in history.items()}
        chunk = self(window, observation.instruction, state)["chunk"][0]
        scale, offset = self.contract.action.column("scale"), self.contract.action.column("offset")
        return np.asarray(chunk * scale + offset)


History = dict[str, list[tuple[int, Image]]]  # camera -> (stamp_ns, image), as they came


def slots(frames: Sequence[tuple[int, Image]], now_ns: int, spec: WindowSpec) -> list[Image | None]:
    """By brute force over every frame there ever was: the nearest to each slot, by the contract's rule."""
    chosen: list[Image | None] = []
    for offset_s in spec.offsets_s:
        target_ns = now_ns + round(offset_s * SECOND_NS)
        stamp_ns, picture = min(frames, key=lambda frame, at=target_ns: (abs(frame[0] - at), frame[0]))
        masked = spec.pad == "mask" and abs(stamp_ns - target_ns) > round(spec.tolerance_s * SECOND_NS)
        chosen.append(None if masked else picture)
    return chosen
