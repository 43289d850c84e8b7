"""A retriever: pictures and texts into one space; labels, rankings and embeddings out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers import CrossDriver, DualDriver
from edgevlm.errors import BundleError
from edgevlm.graph import Graph
from edgevlm.manifest.drivers import CrossArgs
from edgevlm.manifest.schema import RetrieverManifest
from edgevlm.tasks.base import PictureModel
from edgevlm.tasks.generation_config import Picture, listed, texts_of


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


class Retriever(PictureModel):
    """A loaded model. Threads may share it and take turns.

    A text it has seen is not encoded again, nor is a picture that it was shown lately.

    Raises:
        TaskError, BundleError, DependencyError, EngineError: when opening.
    """

    def _read_manifest(self) -> None:
        manifest = self.bundle.manifest.require(RetrieverManifest)
        self._args = args = manifest.driver.args
        self._read_words_and_pictures(manifest.operations, manifest.text)
        if args.vision is None or (isinstance(args, CrossArgs) and args.scores != "match"):
            raise BundleError(
                "driver.args: expected vision and scores that can be compared in a retriever, got "
                f"{args.vision!r} and {args.scores!r}; export the bundle again"
            )
        self._check_vision(args.vision)

    def _open_driver(self, graph: Graph) -> None:
        args, stages = self._args, self.bundle.manifest.stages
        self._driver: CrossDriver | DualDriver = (
            CrossDriver(args, stages, graph) if isinstance(args, CrossArgs) else DualDriver(args, stages, graph)
        )
        self._memory = self._driver.memory()

    @property
    def encodes_texts(self) -> bool:
        """Whether a text has an embedding of its own; some models only read pairs."""
        return self._args.text is not None

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
            pictures = (self._picture(image)[0] for image in images)  # one after the other, as they are looked at
            logits = self._driver.logits(pictures, [self._words(text) for text in texts], self._memory)
            return Match(logits, self._driver.scores(logits))

    def embed_image(self, image: Picture) -> NDArray[np.float32]:
        """The picture's unit vector (D,), a copy. Raises as `classify` does; TaskError where a model makes none."""
        with self._timed():
            return self._driver.embed_image(self._picture(image)[0], self._memory)

    def embed_text(self, text: str) -> NDArray[np.float32]:
        """The text's unit vector (D,), a copy. Raises as `classify` does; TaskError where a model makes none."""
        with self._timed():
            return self._driver.embed_text(*self._words(text), self._memory)
