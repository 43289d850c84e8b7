"""A retriever: pictures and texts into one space; labels, rankings and embeddings out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgevlm.backends import BackendFactory, open_backend
from edgevlm.bundle import Bundle
from edgevlm.drivers import DualDriver
from edgevlm.errors import BundleError, ContractError, InstructionError, SessionError
from edgevlm.graph import Clock, Value
from edgevlm.manifest import Manifest
from edgevlm.options import RuntimeOptions
from edgevlm.photos import open_photo
from edgevlm.preprocess import PicturePreprocessor
from edgevlm.tasks.engines import open_graph
from edgevlm.text import TextEncoder

Picture: TypeAlias = NDArray[np.uint8] | str | os.PathLike[str]  # RGB (H, W, 3), or a JPEG or PNG file


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


class Retriever:
    """A loaded model. Threads may share it and take turns; texts it has seen are not encoded again.

    Attributes:
        last_times_ns: of the last call: "step", "preprocess" and the engine time of each stage that ran.

    Raises:
        TaskError, BundleError, DependencyError, BackendError: when opening.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: RuntimeOptions,
        *,
        backends: BackendFactory = open_backend,
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        manifest = bundle.manifest
        operations, text, _ = manifest.retriever()
        self.bundle, self.options, self.clock = bundle, options, clock
        self._prepare = PicturePreprocessor(operations)
        self._encode = TextEncoder(bundle.tokenizer(), text)
        _check_pixels(manifest, self._prepare)
        with ExitStack() as opened:
            self._graph = open_graph(bundle, options, backends, clock, opened)
            self._driver = DualDriver(manifest, self._graph)
            opened.pop_all()
        self._memory = self._driver.memory()
        self._lock = threading.Lock()
        self._closed = False
        self._pictures_seen = 0
        self.last_times_ns: dict[str, int] = {}

    @property
    def stage_runs(self) -> MappingProxyType[str, int]:
        """Stage -> engine runs since the bundle was loaded."""
        return MappingProxyType(self._memory.runs)

    def classify(self, image: Picture, labels: Sequence[str]) -> Classification:
        """A probability for each of `labels`; write them as the model was trained, such as "a photo of a cat".

        Raises:
            ContractError: no labels.
            ShapeError, PictureError: the picture.
            InstructionError: a label is empty or too long.
            NonFiniteError: the model's output is not finite.
            BackendError: an engine failed.
            SessionError: the retriever was closed.
        """
        texts = _texts(labels, "labels")
        return Classification(texts, self.match([image], texts).scores[0])

    def match(self, images: Sequence[Picture], texts: Sequence[str]) -> Match:
        """Logits and scores (I, T) of every picture with every text. Raises as `classify` does."""
        given = _texts(texts, "texts")
        if isinstance(images, (str, os.PathLike, np.ndarray)) or not len(images):
            raise ContractError(f"images: expected a list of at least one picture, got {_shown(images)}")
        with self._timed():
            described = [self._embed_text(text) for text in given]  # first: a bad text is found at little cost
            seen = [self._embed_image(image) for image in images]
            logits = self._driver.logits(seen, described)
            return Match(logits, self._driver.scores(logits))

    def embed_image(self, image: Picture) -> NDArray[np.float32]:
        """The picture's unit vector (D,), a copy. Raises as `classify` does."""
        with self._timed():
            return self._embed_image(image)

    def embed_text(self, text: str) -> NDArray[np.float32]:
        """The text's unit vector (D,), a copy. Raises as `classify` does."""
        with self._timed():
            return self._embed_text(text)

    def _embed_image(self, image: Picture) -> NDArray[np.float32]:
        started = self.clock()
        pixels = self._prepare(open_photo(image) if isinstance(image, (str, os.PathLike)) else image)
        self._memory.add_time("preprocess", self.clock() - started)
        self._pictures_seen += 1
        return self._driver.embed_image(Value(("picture", self._pictures_seen), pixels), self._memory)

    def _embed_text(self, text: str) -> NDArray[np.float32]:
        if not isinstance(text, str):
            raise InstructionError(f"text: expected words, got {text!r:.80}; give a description or a label")
        ids = Value(("ids", text), lambda: self._encode.encode(text)[0])  # made where the text is new
        mask = Value(("mask", text), lambda: self._encode.encode(text)[1])
        return self._driver.embed_text(ids, mask, self._memory)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise SessionError("retriever: expected an open one, it was closed; load the bundle again")
            started = self.clock()
            self._memory.begin_step()
            yield
            self.last_times_ns = {**self._memory.times_ns, "step": self.clock() - started}

    def close(self) -> None:
        """Free the engines; every later call raises SessionError."""
        with self._lock:
            self._closed = True
            self._graph.close()

    def __enter__(self) -> Retriever:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _texts(given: Sequence[str], what: str) -> tuple[str, ...]:
    if isinstance(given, str) or not len(given):
        raise ContractError(f"{what}: expected a list of at least one text, got {_shown(given)}")
    return tuple(given)


def _shown(given: object) -> str:
    return f"an array of {given.shape}" if isinstance(given, np.ndarray) else f"{given!r:.80}"


def _check_pixels(manifest: Manifest, prepare: PicturePreprocessor) -> None:
    stage = manifest.retriever().args.vision
    wanted, made = manifest.stages[stage].inputs[0].shape, prepare(np.zeros((64, 64, 3), np.uint8)).shape
    if len(wanted) != 4 or any(isinstance(w, int) and w != m for w, m in zip(wanted, made, strict=True)):
        raise BundleError(
            f"stage {stage!r}: expected pixels {wanted}, preprocess makes {made}; export the bundle again"
        )
