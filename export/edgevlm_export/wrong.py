"""What is done wrong on purpose to a chat: each must move its logits, else a comparison of them proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers.decoder import Feature
from edgevlm_calibration.chat import Question

OTHER_PICTURE = "other-picture"
SHUFFLE_SEED = 0
GAP = 1  # how far the later half of the positions is moved: moving all of them changes nothing in many models

Arrays = dict[str, NDArray[Any]]
Ports = Mapping[str, Sequence[str]]  # kind -> names
Twist = Callable[[Arrays, Ports], Arrays]


@dataclass(frozen=True)
class Wrong:
    """One control: another question, or a decoder that gets other inputs."""

    question: Callable[[Sequence[Question], int], Question] = lambda asked, at: asked[at]
    inputs: Twist | None = None


def other_picture(asked: Sequence[Question], at: int) -> Question:
    """The question with the tiles of the next question's picture, as many as there are."""
    own, other = asked[at].prompt, asked[(at + 1) % len(asked)].prompt
    values = list(other.tiles.values())
    tiles = {name: values[i % len(values)] for i, name in enumerate(own.tiles)}
    return replace(asked[at], prompt=replace(own, tiles=tiles))


def shuffled_features(asked: Sequence[Question], at: int) -> Question:
    """The question with the features of each tile in another order."""
    prompt = asked[at].prompt
    places = [one.place for one in prompt.symbols if isinstance(one, Feature)]
    order = np.random.default_rng(SHUFFLE_SEED).permutation(max(places) + 1)
    symbols = tuple(
        Feature(one.tile, int(order[one.place])) if isinstance(one, Feature) else one for one in prompt.symbols
    )
    return replace(asked[at], prompt=replace(prompt, symbols=symbols))


def shifted(arrays: Arrays, ports: Ports) -> Arrays:
    """The positions of the latter half of the prompt, and of all that follows, moved on."""
    (name,) = ports["positions"]
    positions = arrays[name]
    begin = positions[0, positions.shape[1] // 2] if positions.shape[1] > 1 else positions[0, 0]
    return {**arrays, name: np.where(positions >= begin, positions + GAP, positions)}


def masked(arrays: Arrays, ports: Ports) -> Arrays:
    """Every token of a run sees the whole run; where it should, none sees what comes after it."""
    changed = dict(arrays)
    for name in ports["mask"]:
        mask = arrays[name].copy()
        count = mask.shape[2]
        block = mask[..., -count:]  # what the new tokens see of each other
        hidden = float(mask.min())
        if (block < 0).any():
            block[...] = 0.0
        elif count > 1:
            block[0, 0][np.triu_indices(count, 1)] = hidden if hidden < 0 else -30_000.0
        changed[name] = mask
    return changed


# Name in the record -> what is wrong.
CONTROLS: Mapping[str, Wrong] = {
    OTHER_PICTURE: Wrong(question=other_picture),
    "shuffled-features": Wrong(question=shuffled_features),
    "shifted-positions": Wrong(inputs=shifted),
    "wrong-mask": Wrong(inputs=masked),
}
