"""What a decoder reads: one place that turns words and pictures into a driver's prompt, for all who ask a chat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.drivers import Feature, Prompt
from edgevlm.errors import BundleError, PromptError
from edgevlm.graph import Value
from edgevlm.preprocess import PicturePreprocessor
from edgevlm.tasks.asking import Shown
from edgevlm.text import PromptWriter, Turn
from edgevlm.text.prompt import Grid, tiles

Pixels = NDArray[np.float32]  # (N, 3, S, S): the tiles of one picture


class Prompter:
    """The words and pictures of one bundle. Immutable; threads may share it.

    Attributes:
        words: turns -> ids, and ids -> text.

    Raises:
        TaskError: the bundle is no chat.
        BundleError: its tokenizer or its template cannot be read.
        DependencyError: jinja2 is not installed.
    """

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        operations, self._spec, args = manifest.chat()
        self._prepare = PicturePreprocessor(operations)
        self._pixels = manifest.stages[args.vision].inputs[0].shape
        self.words = PromptWriter(self._spec, bundle.tokenizer(), _template(bundle))

    def question(self, text: str, pictures: Sequence[Shown]) -> Turn:
        """A user's turn. Raises InstructionError, PromptError."""
        if self._spec.needs_picture and not pictures:
            raise PromptError("image: expected a picture, for this model says nothing without one; got none")
        return Turn("user", self.words.check(text), len(pictures))

    def ids(self, turns: Sequence[Turn], pictures: Sequence[Shown]) -> tuple[int, ...]:
        """The prompt of a dialogue with all its pictures, an image id for every feature.

        Raises:
            InstructionError, PromptError, TaskError: the dialogue.
            PictureError, BundleError: a picture of this size cannot be prepared.
        """
        return tuple(self.words.ids(turns, [self._grid(shown.image) for shown in pictures]))

    def tiles(self, image: NDArray[np.uint8]) -> int:
        """How many tiles a picture becomes. Raises PictureError, BundleError."""
        return tiles(self._grid(image))

    def pixels(self, shown: Shown) -> Pixels:
        """A picture as the vision stage wants its tiles. Raises PictureError, BundleError."""
        pixels = self._prepare(shown.image)
        wanted = (pixels.shape[0], *self._pixels[1:])
        if pixels.shape != wanted:
            raise BundleError(f"pixels: expected {wanted}, preprocess makes {pixels.shape}; export the bundle again")
        return pixels

    def prompt(
        self, ids: Sequence[int], pictures: Sequence[Shown], pixels: Callable[[Shown], Pixels] | None = None
    ) -> Prompt:
        """`ids`, as `ids()` gives them, with the features of `pictures` at the places of the image ids.

        Args:
            pixels: makes the pixels of a picture, once, when a tile of it is really looked at; `self.pixels` usually.
        """
        make = pixels or self.pixels
        features: list[Feature] = []
        looked_at: dict[Any, Value] = {}
        for shown in pictures:
            prepared = Value(shown.digest, _later(make, shown))
            for tile in range(self.tiles(shown.image)):
                name = (shown.digest, tile)
                looked_at[name] = Value(name, _cut(prepared, tile))
                features += [Feature(name, place) for place in range(self._spec.picture_tokens)]
        seen = iter(features)
        return Prompt(tuple(next(seen) if token == self._spec.image_id else token for token in ids), looked_at)

    def _grid(self, image: NDArray[np.uint8]) -> Grid:
        return self._prepare.grid(*image.shape[:2])


def _later(make: Callable[[Shown], Pixels], shown: Shown) -> Callable[[], Pixels]:
    return lambda: make(shown)


def _cut(pixels: Value, tile: int) -> Callable[[], Pixels]:
    return lambda: np.ascontiguousarray(pixels.array[tile : tile + 1])


def _template(bundle: Bundle) -> str | None:
    path = bundle.manifest.chat().prompt.template
    if path is None:
        return None
    try:
        return bundle.path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: the chat template cannot be read ({error}); export the bundle again") from error
