"""What is done wrong on purpose to a chat: each must move its logits, else a comparison of them proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers import ImageToken
from edgevlm.graph import Value
from edgevlm_calibration.chat import Question

OTHER_PICTURE = "other-picture"
SHUFFLE_SEED = 0
SQUARES = 4  # along one side
GAP = 1  # how far the later half of the positions is moved: moving all of them changes nothing in many models

Arrays = dict[str, NDArray[Any]]
Ports = Mapping[str, Sequence[str]]  # kind -> names
Twist = Callable[[Arrays, Ports], Arrays]


@dataclass(frozen=True)
class Corruption:
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
    """The question with the features of each tile in another order.

    A decoder that looks at features through cross attention does not see their order: there it is the squares of the
    picture itself that are put into another order.
    """
    prompt = asked[at].prompt
    places = [one.place for one in prompt.cache_keys if isinstance(one, ImageToken)]
    if not places:
        tiles = {name: Value(("shuffled", name), _shuffled(value.array)) for name, value in prompt.tiles.items()}
        return replace(asked[at], prompt=replace(prompt, tiles=tiles))
    order = np.random.default_rng(SHUFFLE_SEED).permutation(max(places) + 1)
    symbols = tuple(
        ImageToken(one.tile, int(order[one.place])) if isinstance(one, ImageToken) else one for one in prompt.cache_keys
    )
    return replace(asked[at], prompt=replace(prompt, cache_keys=symbols))


def _shuffled(pixels: NDArray[Any]) -> NDArray[Any]:
    """pixels (1, 3, S, S) with its `SQUARES` x `SQUARES` squares in another order; what is left at the edges stays."""
    side, changed = pixels.shape[-1] // SQUARES, pixels.copy()
    corners = [(side * row, side * column) for row in range(SQUARES) for column in range(SQUARES)]
    for (top, left), other in zip(corners, np.random.default_rng(SHUFFLE_SEED).permutation(corners), strict=True):
        changed[..., top : top + side, left : left + side] = pixels[
            ..., other[0] : other[0] + side, other[1] : other[1] + side
        ]
    return changed


def shifted(arrays: Arrays, ports: Ports) -> Arrays:
    """The positions of the latter half of the prompt, and of all that follows, moved on."""
    (name,) = ports["positions"]
    positions = arrays[name]
    begin = positions[0, positions.shape[1] // 2] if positions.shape[1] > 1 else positions[0, 0]
    return {**arrays, name: np.where(positions >= begin, positions + GAP, positions)}


def masked(arrays: Arrays, ports: Ports) -> Arrays:
    """Every token of a run sees the whole run; where it should, none sees what comes after it.

    A decoder that looks at its picture has runs of one token from the beginning: there the later half of what was said
    is hidden from it.
    """
    changed = dict(arrays)
    for name in ports["mask"]:
        mask = arrays[name].copy()
        count = mask.shape[2]
        block = mask[..., -count:]  # what the new tokens see of each other
        hidden = float(mask.min())
        if count == 1 and "cross_key" in ports:
            (seen,) = np.nonzero(mask[0, 0, 0, :-1] == 0.0)
            mask[..., seen[len(seen) // 2 :]] = -30_000.0
        elif (block < 0).any():
            block[...] = 0.0
        elif count > 1:
            block[0, 0][np.triu_indices(count, 1)] = hidden if hidden < 0 else -30_000.0
        changed[name] = mask
    return changed


# Name in the record -> what is wrong.
CONTROLS: Mapping[str, Corruption] = {
    OTHER_PICTURE: Corruption(question=other_picture),
    "shuffled-features": Corruption(question=shuffled_features),
    "shifted-positions": Corruption(inputs=shifted),
    "wrong-mask": Corruption(inputs=masked),
}
