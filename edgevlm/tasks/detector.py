"""A detector that is told in words what to look for: a picture and labels in, boxes out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.drivers.dual import text_values
from edgevlm.drivers.regions import RegionsDriver
from edgevlm.engines import EngineFactory, open_engine
from edgevlm.errors import BundleError, ContractError
from edgevlm.graph import Clock, Value
from edgevlm.manifest.schema import Manifest, RegionsArgs
from edgevlm.options import RuntimeOptions
from edgevlm.preprocess import PicturePreprocessor
from edgevlm.tasks.assembly import open_graph
from edgevlm.tasks.base import ModelBase
from edgevlm.tasks.generation_config import ImageInput, Picture, open_images, texts_of
from edgevlm.text import TextEncoder

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
        scores = np.exp(-np.logaddexp(np.float32(0), -best))  # the sigmoid, which never overflows so
        retained = np.flatnonzero(scores > limit)
        retained = retained[np.argsort(-scores[retained], kind="stable")]
        names = tuple(self.labels[i] for i in self.logits[retained].argmax(axis=1))
        return Detections(self.boxes[retained], scores[retained].astype(np.float32), names)


class Detector(ModelBase):
    """A loaded model. Threads may share it and take turns.

    A label it has seen is not encoded again, nor is a picture that it was shown lately.

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
        operations, text, _ = manifest.detector()
        self._prepare = PicturePreprocessor(operations)
        self._encode = TextEncoder(bundle.tokenizer(), text)
        _check_pixels(manifest, self._prepare)
        with ExitStack() as opened:
            graph = open_graph(bundle, options, engines, clock, opened)
            self._driver = RegionsDriver(manifest, graph)
            opened.pop_all()
        super().__init__(bundle, options, clock, graph, self._driver.memory())

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
            vectors = [self._embed_text(text) for text in texts]  # first: a bad text is found at little cost
            started = self.clock()
            (image_input,) = open_images([image])
            self._memory.add_time("preprocess", self.clock() - started)
            looked = self._driver.encode_image(
                Value(("picture", image_input.digest), lambda: self._pixels(image_input)), self._memory
            )
            logits = self._driver.logits(looked, vectors)
            boxes = self._driver.corners(looked, *image_input.image.shape[:2])
            objectness = None if looked.objectness is None else looked.objectness.copy()
            return Regions(texts, boxes, logits, objectness)

    def _pixels(self, image_input: ImageInput) -> NDArray[np.float32]:
        started = self.clock()
        pixels = self._prepare(image_input.image)
        self._memory.add_time("preprocess", self.clock() - started)
        return pixels

    def _embed_text(self, text: str) -> NDArray[np.float32]:
        return self._driver.embed_text(*text_values(text, self._encode.encode), self._memory)


def _share(threshold: float) -> float:
    known = isinstance(threshold, (int, float, np.integer, np.floating)) and not isinstance(threshold, bool)
    if not known or not math.isfinite(threshold) or not 0 <= threshold <= 1:
        raise ContractError(f"threshold: expected a number in 0..1, got {threshold!r:.80}")
    return float(threshold)


def _check_pixels(manifest: Manifest, prepare: PicturePreprocessor) -> None:
    stage = manifest.loop(RegionsArgs).vision
    expected, actual = manifest.stages[stage].inputs[0].shape, prepare(np.zeros((64, 64, 3), np.uint8)).shape
    if len(expected) != 4 or any(isinstance(w, int) and w != m for w, m in zip(expected, actual, strict=True)):
        raise BundleError(
            f"stage {stage!r}: expected pixels {expected}, preprocess makes {actual}; export the bundle again"
        )
