"""A retriever: pictures and texts into one space; labels, rankings and embeddings out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.drivers import CrossDriver, DualDriver
from edgevlm.drivers.dual import text_values
from edgevlm.engines import EngineFactory, open_engine
from edgevlm.errors import BundleError, InstructionError
from edgevlm.graph import Clock, Value
from edgevlm.manifest.schema import CrossArgs, Manifest
from edgevlm.options import RuntimeOptions
from edgevlm.preprocess import PicturePreprocessor
from edgevlm.tasks.assembly import open_graph
from edgevlm.tasks.base import ModelBase
from edgevlm.tasks.generation_config import ImageInput, Picture, listed, open_images, texts_of
from edgevlm.text import TextEncoder


@dataclass(frozen=True)
class Classification:
    """A probability for each label, in the order they were asked."""

    labels: tuple[str, ...]
    scores: NDArray[np.float32]  # (L,)

    @property
    def best(self) -> str:
        """The likeliest label."""
        return self.labels[int(np.argmax(self.scores))]


@dataclass(frozen=True)
class Match:
    """Every picture beside every text: raw logits, and the probabilities that the model's training makes of them."""

    logits: NDArray[np.float32]  # (I, T)
    scores: NDArray[np.float32]  # (I, T)


class Retriever(ModelBase):
    """A loaded model. Threads may share it and take turns.

    A text it has seen is not encoded again, nor is a picture that it was shown lately.

    Raises:
        TaskError, BundleError, DependencyError, EngineError: when opening.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: RuntimeOptions,
        *,
        engines: EngineFactory = open_engine,
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        manifest = bundle.manifest
        operations, text, args = manifest.retriever()
        self._prepare = PicturePreprocessor(operations)
        self._encode = TextEncoder(bundle.tokenizer(), text)
        _check_pixels(manifest, self._prepare)
        with ExitStack() as opened:
            graph = open_graph(bundle, options, engines, clock, opened)
            self._driver: CrossDriver | DualDriver = (
                CrossDriver(manifest, graph) if isinstance(args, CrossArgs) else DualDriver(manifest, graph)
            )
            opened.pop_all()
        super().__init__(bundle, options, clock, graph, self._driver.memory())

    @property
    def encodes_texts(self) -> bool:
        """Whether a text has an embedding of its own; some models only read pairs."""
        return self.bundle.manifest.retriever().args.text is not None

    def classify(self, image: Picture, labels: Sequence[str]) -> Classification:
        """A probability for each of `labels`; write them as the model was trained, such as "a photo of a cat".

        Raises:
            ContractError: no list of labels.
            ShapeError, PictureError: the picture.
            InstructionError: a label is empty or too long.
            NonFiniteError: the model's output is not finite.
            EngineError: an engine failed.
            SessionError: the retriever was closed.
        """
        texts = texts_of(labels, "labels")
        return Classification(texts, self._match([image], texts).scores[0])

    def match(self, images: Sequence[Picture], texts: Sequence[str]) -> Match:
        """Logits and scores (I, T) of every picture with every text. Raises as `classify` does."""
        return self._match(listed(images, "images", "picture"), texts_of(texts, "texts"))

    def _match(self, images: Sequence[Picture], texts: Sequence[str]) -> Match:
        with self._timed():
            pictures = (self._pixels(image) for image in images)  # one after the other, as they are looked at
            logits = self._driver.logits(pictures, [self._words(text) for text in texts], self._memory)
            return Match(logits, self._driver.scores(logits))

    def embed_image(self, image: Picture) -> NDArray[np.float32]:
        """The picture's unit vector (D,), a copy. Raises as `classify` does; TaskError where a model makes none."""
        with self._timed():
            return self._driver.embed_image(self._pixels(image), self._memory)

    def embed_text(self, text: str) -> NDArray[np.float32]:
        """The text's unit vector (D,), a copy. Raises as `classify` does; TaskError where a model makes none."""
        with self._timed():
            return self._driver.embed_text(*self._words(text), self._memory)

    def _pixels(self, image: Picture) -> Value:
        started = self.clock()
        (image_input,) = open_images([image])
        self._memory.add_time("preprocess", self.clock() - started)
        return Value(("picture", image_input.digest), lambda: self._prepared(image_input))  # prepared where it is new

    def _prepared(self, image_input: ImageInput) -> NDArray[np.float32]:
        started = self.clock()
        pixels = self._prepare(image_input.image)
        self._memory.add_time("preprocess", self.clock() - started)
        return pixels

    def _words(self, text: str) -> tuple[Value, Value]:
        if not isinstance(text, str):
            raise InstructionError(f"text: expected words, got {text!r:.80}; give a description or a label")
        return text_values(text, self._encode.encode)


def _check_pixels(manifest: Manifest, prepare: PicturePreprocessor) -> None:
    args = manifest.retriever().args
    stage = args.vision
    if stage is None or (isinstance(args, CrossArgs) and args.scores != "match"):
        raise BundleError(
            "driver.args: expected vision and scores that can be compared in a retriever, got "
            f"{stage!r} and {args.scores!r}; export the bundle again"
        )
    expected, actual = manifest.stages[stage].inputs[0].shape, prepare(np.zeros((64, 64, 3), np.uint8)).shape
    if len(expected) != 4 or any(isinstance(w, int) and w != m for w, m in zip(expected, actual, strict=True)):
        raise BundleError(
            f"stage {stage!r}: expected pixels {expected}, preprocess makes {actual}; export the bundle again"
        )
