"""A detector that is told in words what to look for: a picture and labels in, boxes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers import RegionsDriver
from edgevlm.drivers.numerics import sigmoid
from edgevlm.errors import ContractError
from edgevlm.graph import Graph
from edgevlm.manifest.schema import DetectorManifest
from edgevlm.tasks.base import PictureModel
from edgevlm.tasks.generation_config import Picture, texts_of

THRESHOLD = 0.1


@dataclass(frozen=True)
class Detections:
    """What was found, best first.

    Attributes:
        boxes: left, top, right, bottom in pixels of the picture that was given; a box may reach beyond it. Of a file
            whose Exif orientation turns it, these are pixels of the upright picture, as `photos.open_photo` gives it.
        scores: of each box for its label, in 0..1, above the threshold.
        labels: of each box the one that fits best.
    """

    boxes: NDArray[np.float32]  # (K, 4)
    scores: NDArray[np.float32]  # (K,)
    labels: tuple[str, ...]  # K


@dataclass(frozen=True)
class Regions:
    """Every region of a picture beside every label, unsorted: what `Detections` are chosen from.

    Attributes:
        boxes: as in `Detections`.
        logits: raw, before the sigmoid.
        objectness: a logit of its own for "this is a thing", whatever the labels; None where the model has none. It
            has no part in the scores.
    """

    labels: tuple[str, ...]  # L
    boxes: NDArray[np.float32]  # (N, 4)
    logits: NDArray[np.float32]  # (N, L)
    objectness: NDArray[np.float32] | None  # (N,)

    def above(self, threshold: float) -> Detections:
        """The regions whose best label scores more than `threshold`, best first.

        Raises:
            ContractError: a threshold that is no number in 0..1.
        """
        limit = np.float32(_share(threshold))
        best = self.logits.max(axis=1)
        scores = sigmoid(best)
        retained = np.flatnonzero(scores > limit)
        retained = retained[np.argsort(-scores[retained], kind="stable")]
        names = tuple(self.labels[i] for i in self.logits[retained].argmax(axis=1))
        return Detections(self.boxes[retained], scores[retained].astype(np.float32), names)


class Detector(PictureModel):
    """A loaded model. Threads may share it and take turns.

    A label it has seen is not encoded again, nor is a picture that it was shown lately.

    Raises:
        TaskError, BundleError, DependencyError, EngineError: when opening.
    """

    def _read_manifest(self) -> None:
        manifest = self.bundle.manifest.require(DetectorManifest)
        self._args = manifest.driver.args
        self._read_words_and_pictures(manifest.operations, manifest.text)
        self._check_vision(self._args.vision)

    def _open_driver(self, graph: Graph) -> None:
        self._driver = RegionsDriver(self._args, self.bundle.manifest.stages, graph)
        self._memory = self._driver.memory()

    def detect(self, image: Picture, labels: Sequence[str], threshold: float = THRESHOLD) -> Detections:
        """The boxes whose best label scores more than `threshold`, best first; one label for each box.

        Write labels as the model was trained, such as "a photo of a cat". A label scores by itself: what other labels
        there are only decides which of them a box is given.

        Raises:
            ContractError: no labels, or a threshold that is no number in 0..1.
            ShapeError, PictureError: the picture.
            InstructionError: a label is empty or too long.
            NonFiniteError: the model's output is not finite.
            EngineError: an engine failed.
            SessionError: the detector was closed.
        """
        _share(threshold)  # before anything is run
        return self.regions(image, labels).above(threshold)

    def regions(self, image: Picture, labels: Sequence[str]) -> Regions:
        """Every region with its raw logit for each of `labels`. Raises as `detect` does."""
        texts = texts_of(labels, "labels")
        with self._timed():
            # Texts first: a bad one is refused at little cost.
            vectors = [self._driver.embed_text(*self._words(text), self._memory) for text in texts]
            pixels, image_input = self._picture(image)
            looked = self._driver.encode_image(pixels, self._memory)
            logits = self._driver.logits(looked, vectors)
            boxes = self._driver.corners(looked, *image_input.image.shape[:2])
            objectness = None if looked.objectness is None else looked.objectness.copy()
            return Regions(texts, boxes, logits, objectness)


def _share(threshold: float) -> float:
    known = isinstance(threshold, (int, float, np.integer, np.floating)) and not isinstance(threshold, bool)
    if not known or not math.isfinite(threshold) or not 0 <= threshold <= 1:
        raise ContractError(f"threshold: expected a number in 0..1, got {threshold!r:.80}")
    return float(threshold)
