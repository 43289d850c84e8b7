"""What a driver reads: one place that turns words and pictures into its prompt, for all who ask a chat."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.drivers import ImageToken, Prompt
from edgevlm.errors import BundleError, PromptError
from edgevlm.graph import Value
from edgevlm.manifest.schema import ChatManifest, DialogueManifest, QuestionManifest
from edgevlm.preprocess import PicturePreprocessor
from edgevlm.tasks.generation_config import ImageInput
from edgevlm.text import PromptWriter, QuestionWriter, SpecialTokens, Turn, prompt_as_data
from edgevlm.text.prompt import Grid, tiles

Pixels = NDArray[np.float32]  # (N, 3, S, S): the tiles of one picture


class ChatProcessor(ABC):
    """The words and pictures of one bundle, as its driver reads them. Immutable; threads may share it.

    Attributes:
        words: turns -> ids, and ids -> text.

    Raises:
        BundleError: its tokenizer cannot be read, or its chat template (before 1.4) cannot be turned into data.
        DependencyError: that needs jinja2, which is not installed.
    """

    words: SpecialTokens

    def __init__(self, manifest: ChatManifest) -> None:
        self._prepare = PicturePreprocessor(manifest.operations)
        self._pixels = manifest.stages[manifest.driver.args.vision].inputs[0].shape

    @abstractmethod
    def question(self, text: str, pictures: Sequence[ImageInput]) -> Turn:
        """A user's turn. Raises InstructionError, PromptError."""

    @abstractmethod
    def ids(self, turns: Sequence[Turn], pictures: Sequence[ImageInput]) -> tuple[int, ...]:
        """The words of a dialogue as the model's tokenizer writes them, an image id for every feature in their row.

        Raises:
            InstructionError, PromptError, TaskError: the dialogue.
            PictureError, BundleError: a picture of this size cannot be prepared.
        """

    @abstractmethod
    def prompt(
        self, ids: Sequence[int], pictures: Sequence[ImageInput], pixels: Callable[[ImageInput], Pixels] | None = None
    ) -> Prompt:
        """`ids`, as `ids()` gives them, with `pictures`.

        Args:
            pixels: makes the pixels of a picture, once, when it is really looked at; `self.pixels` usually.
        """

    def tiles(self, image: NDArray[np.uint8]) -> int:
        """How many tiles a picture becomes. Raises PictureError, BundleError."""
        return tiles(self._grid(image))

    def pixels(self, image_input: ImageInput) -> Pixels:
        """A picture as the vision stage wants its tiles. Raises PictureError, BundleError."""
        pixels = self._prepare(image_input.image)
        expected = (pixels.shape[0], *self._pixels[1:])
        if pixels.shape != expected:
            raise BundleError(f"pixels: expected {expected}, preprocess makes {pixels.shape}; export the bundle again")
        return pixels

    def _grid(self, image: NDArray[np.uint8]) -> Grid:
        return self._prepare.grid(*image.shape[:2])


class RowProcessor(ChatProcessor):
    """Words and pictures in one row, for the driver `decoder`."""

    def __init__(self, bundle: Bundle, manifest: DialogueManifest) -> None:
        super().__init__(manifest)
        self._spec = prompt_as_data(bundle)
        self._writer = PromptWriter(self._spec, bundle.tokenizer())
        self.words = self._writer

    def question(self, text: str, pictures: Sequence[ImageInput]) -> Turn:
        """A user's turn. Raises InstructionError, PromptError."""
        most = self._spec.most_pictures
        if self._spec.needs_picture and not pictures:
            raise PromptError("image: expected a picture, for this model says nothing without one; got none")
        if most is not None and len(pictures) > most:
            raise too_many(most, len(pictures))
        return Turn("user", self.words.check(text), len(pictures))

    def ids(self, turns: Sequence[Turn], pictures: Sequence[ImageInput]) -> tuple[int, ...]:
        """The prompt of a dialogue with all its pictures, an image id for every feature."""
        return tuple(self._writer.ids(turns, [self._grid(image_input.image) for image_input in pictures]))

    def prompt(
        self, ids: Sequence[int], pictures: Sequence[ImageInput], pixels: Callable[[ImageInput], Pixels] | None = None
    ) -> Prompt:
        """`ids` with the features of `pictures` at the places of the image ids."""
        make = pixels or self.pixels
        features: list[ImageToken] = []
        looked_at: dict[Any, Value] = {}
        for image_input in pictures:
            prepared = Value(image_input.digest, _later(make, image_input))
            for tile in range(self.tiles(image_input.image)):
                name = (image_input.digest, tile)
                looked_at[name] = Value(name, _cut(prepared, tile))
                features += [ImageToken(name, place) for place in range(self._spec.picture_tokens)]
        placeholders = iter(features)
        return Prompt(tuple(next(placeholders) if token == self._spec.image_id else token for token in ids), looked_at)


class QuestionProcessor(ChatProcessor):
    """A question beside its picture, for the driver `seq2seq`."""

    def __init__(self, bundle: Bundle, manifest: QuestionManifest) -> None:
        super().__init__(manifest)
        self._begin = manifest.driver.args.begin
        self._writer = QuestionWriter(manifest.question, bundle.tokenizer(), self._begin)
        self.words = self._writer

    def question(self, text: str, pictures: Sequence[ImageInput]) -> Turn:
        """A user's turn. Raises InstructionError, PromptError."""
        if not pictures:
            raise PromptError("image: expected a picture, for this model says nothing without one; got none")
        if len(pictures) > 1:
            raise too_many(1, len(pictures))
        return Turn("user", self.words.check(text), 1)

    def ids(self, turns: Sequence[Turn], pictures: Sequence[ImageInput]) -> tuple[int, ...]:
        """What the encoder reads of the question, or what the decoder begins with: no picture is in that row."""
        (turn,) = turns
        return self._writer.ids(turn.text)

    def prompt(
        self, ids: Sequence[int], pictures: Sequence[ImageInput], pixels: Callable[[ImageInput], Pixels] | None = None
    ) -> Prompt:
        """`ids` and the picture that is looked at."""
        (image_input,) = pictures
        name: Hashable = (image_input.digest, 0)
        looked_at = {name: Value(name, _later(pixels or self.pixels, image_input))}
        if self._writer.encoded:
            return Prompt(self._begin, looked_at, tuple(ids))
        return Prompt(tuple(ids), looked_at)


def open_processor(bundle: Bundle) -> ChatProcessor:
    """The one that the driver of `bundle` wants. Raises TaskError, BundleError, DependencyError."""
    manifest = bundle.manifest
    if isinstance(manifest, QuestionManifest):
        return QuestionProcessor(bundle, manifest)
    return RowProcessor(bundle, manifest.require(DialogueManifest))


def too_many(most: int, got: int) -> PromptError:
    """For more pictures than a model takes."""
    return PromptError(f"image: expected at most {most} picture(s) with a question to this model, got {got}")


def _later(make: Callable[[ImageInput], Pixels], image_input: ImageInput) -> Callable[[], Pixels]:
    return lambda: make(image_input)


def _cut(pixels: Value, tile: int) -> Callable[[], Pixels]:
    return lambda: np.ascontiguousarray(pixels.array[tile : tile + 1])
