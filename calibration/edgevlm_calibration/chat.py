"""An fp32 chat, pictures and questions -> activation ranges, and what the stages were given on the way.

The prompts are made and read by what makes and reads them in a `Chat`: what a stage sees is what it will see, the keys
and values of a real prompt with a real picture among them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.backends import Backend, BackendFactory, open_backend
from edgevlm.bundle import Bundle
from edgevlm.drivers.decoder import DecoderDriver, Prompt
from edgevlm.graph import Memory
from edgevlm.options import RuntimeOptions
from edgevlm.tasks.asking import show
from edgevlm.tasks.engines import open_embeddings, open_graph
from edgevlm.tasks.prompter import Prompter
from edgevlm_calibration.calibrate import OBSERVER, OPTIONS, ObservingBackend, Seen, table_stages
from edgevlm_calibration.observers import OBSERVERS
from edgevlm_calibration.progress import Progress, silent
from edgevlm_calibration.sources import Photo, PictureData
from edgevlm_calibration.table import PictureSplit, Table

PROMPTS = 16  # each a picture and a question
SAID = 8  # tokens of each answer
STRIP = 4  # how much wider than high a strip is

Arrays = dict[str, NDArray[Any]]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Question:
    """A prompt in the forms that the runtime and the original model take.

    Attributes:
        ids: with an image token for each feature, as upstream's processor writes them.
        pixels: (N, 3, S, S) of its picture.
    """

    prompt: Prompt
    ids: tuple[int, ...]
    pixels: NDArray[np.float32]


class Talk:
    """A chat bundle, its logits at hand. One conversation at a time."""

    def __init__(
        self, bundle: Bundle, options: RuntimeOptions = OPTIONS, backends: BackendFactory = open_backend
    ) -> None:
        manifest = bundle.manifest
        self._prompter, self._stop_ids = Prompter(bundle), manifest.chat().args.stop_ids
        with ExitStack() as opened:
            self._graph = open_graph(bundle, options, backends, time.perf_counter_ns, opened)
            self._driver = DecoderDriver(manifest, self._graph, open_embeddings(bundle))
            opened.pop_all()
        self._memory = self._driver.memory()
        self._cache = self._driver.cache()

    @property
    def memory(self) -> Memory:
        """Counts the runs of each stage."""
        return self._memory

    def question(self, photo: Photo, text: str, tiles: int | None = None) -> Question:
        """One picture and a text, as a prompt; of a picture of more than `tiles` only a strip is shown."""
        image = photo.load()
        if tiles is not None and self._prompter.tiles(image) > tiles + 1:  # and the whole picture after them
            middle, half = image.shape[0] // 2, max(1, image.shape[1] // STRIP // 2)
            image = np.ascontiguousarray(image[max(0, middle - half) : middle + half])
        pictures = show(image)
        ids = self._prompter.ids([self._prompter.question(text, pictures)], pictures)
        pixels = self._prompter.pixels(pictures[0])
        return Question(self._prompter.prompt(ids, pictures, lambda shown: pixels), ids, pixels)

    def answer(self, question: Question, most: int, forced: Sequence[int] = ()) -> tuple[tuple[int, ...], Logits]:
        """(at most `most` tokens, the logits (n, V) that each was chosen from); the first ones may be `forced`."""
        self._cache.clear()
        logits, _ = self._driver.read(question.prompt, self._cache, self._memory)
        said: list[int] = []
        seen: list[Logits] = []
        while len(said) < most:
            seen.append(logits)
            said.append(forced[len(said)] if len(said) < len(forced) else int(np.argmax(logits)))
            if len(said) == most or (not forced and said[-1] in self._stop_ids):
                break
            logits = self._driver.step(said[-1], self._cache, self._memory)
        return tuple(said), np.stack(seen)

    def close(self) -> None:
        """Free the engines."""
        self._graph.close()

    def __enter__(self) -> Talk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def questions(photos: Sequence[Photo], texts: Sequence[str], most: int) -> list[tuple[Photo, str]]:
    """Up to `most` pairs; every picture and every text comes once before one comes again."""
    pairs = min(most, max(len(photos), len(texts)))
    return [(photos[i % len(photos)], texts[i % len(texts)]) for i in range(pairs)]


def calibrate_chat(bundle: Bundle, data: PictureData, progress: Progress = silent) -> Table:
    """A table for an fp32 bundle from the calibration pictures and texts of `data`."""
    seen: Seen = {}

    def factory(opened: Bundle, stage: str, options: RuntimeOptions) -> Backend:
        return ObservingBackend(opened, stage, options, seen.setdefault(stage, {}))

    asked = questions(data.calibration, data.calibration_texts, PROMPTS)
    with Talk(bundle, OPTIONS, factory) as talk:
        for done, (photo, text) in enumerate(asked):
            progress("calibrate", done, len(asked))
            talk.answer(talk.question(photo, text), SAID)
        runs = dict(talk.memory.runs)
    progress("calibrate", len(asked), len(asked))
    return Table(
        bundle_sha256=bundle.sha256,
        log_sha256=data.sha256,
        observer=OBSERVER,
        requested=PROMPTS,
        samples=len(asked),
        stage_runs=runs,
        stages=table_stages(seen, OBSERVERS[OBSERVER]),
        split=PictureSplit(
            calibration=tuple(photo.name for photo in data.calibration),
            held_out=tuple(photo.name for photo in data.held_out),
            calibration_texts=data.calibration_texts,
            held_out_texts=data.held_out_texts,
        ),
    )


class Recorder:
    """Engines that keep what a stage was given: of each answer the last run of its prompt and its first new word."""

    def __init__(self) -> None:
        self.feeds: dict[str, list[Arrays]] = {}

    def factory(self, bundle: Bundle, stage: str, options: RuntimeOptions) -> Backend:
        """A BackendFactory."""
        return _Recording(open_backend(bundle, stage, options), self.feeds.setdefault(stage, []))


class _Recording:
    def __init__(self, inner: Backend, feeds: list[Arrays]) -> None:
        self._inner, self._feeds = inner, feeds
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        # Copies: the past is a view of buffers that are written on.
        self._feeds.append({name: np.array(value) for name, value in inputs.items()})
        return self._inner.run(inputs)

    def close(self) -> None:
        self._inner.close()


def record(bundle: Bundle, data: PictureData, prompts: int, said: int = 2) -> dict[str, list[Arrays]]:
    """stage -> what it was given for some of the calibration part: prompts and new words, with real pasts."""
    recorder = Recorder()
    with Talk(bundle, OPTIONS, recorder.factory) as talk:
        for photo, text in questions(data.calibration, data.calibration_texts, prompts):
            talk.answer(talk.question(photo, text), said)
    return recorder.feeds
