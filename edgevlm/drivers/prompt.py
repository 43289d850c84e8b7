"""What a driver that says one token after the other reads."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevlm.graph import Value

Logits = NDArray[np.float32]  # (V,)


class ImageToken(NamedTuple):
    """What stands in a prompt at the place of one image token."""

    tile: Hashable  # the picture's digest and the tile's number: equal where the pixels are
    place: int  # of the feature among those of the tile


@dataclass(frozen=True)
class Prompt:
    """What a driver is to read.

    Attributes:
        cache_keys: what the decoder reads: an id, or an `ImageToken`, for each token.
        tiles: the pixels (1, 3, S, S) of every tile that the keys name, or that is looked at, made where needed.
        question: ids that an encoder reads beside the picture, where there is one.
    """

    cache_keys: tuple[int | ImageToken, ...]
    tiles: Mapping[Hashable, Value] = field(default_factory=dict)
    question: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """All that is read before the first word is said."""
        return len(self.cache_keys) + len(self.question)
