"""A chat with its logits at hand, and how it is calibrated: pictures and questions, and a few words of each answer.

The prompts are made and read by what makes and reads them in a `Chat`: what a stage sees is what it will see, the keys
and values of a real prompt with a real picture among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.data.pictures import Photo, PictureData
from edgevlm.drivers import Prompt
from edgevlm.engines import EngineFactory, open_engine
from edgevlm.options import RuntimeOptions
from edgevlm.tasks.chat import Chat
from edgevlm.tasks.generation_config import open_images
from edgevlm_calibration.pictures import origin, questions
from edgevlm_calibration.runner import OPTIONS, CalibrationRun, each

PROMPTS = 16  # each a picture and a question
ANSWER_TOKENS = 8  # of each answer
STRIP = 4  # how much wider than high a strip is

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
    """A chat bundle, its logits at hand. One conversation at a time.

    Attributes:
        needs_text: whether a picture without words is refused.
    """

    def __init__(self, bundle: Bundle, options: RuntimeOptions = OPTIONS, engines: EngineFactory = open_engine) -> None:
        self._chat = Chat(bundle, options, engines=engines)
        self._generator = self._chat.generator
        self._state = self._generator.reader()
        self._processor, self._stop_ids = self._generator.processor, self._generator.stop_ids
        self.needs_text = self._chat.needs_text

    def question(self, photo: Photo, text: str, tiles: int | None = None) -> Question:
        """One picture and a text, as a prompt; of a picture of more than `tiles` only a strip is shown."""
        image = photo.load()
        height, width = image.shape[:2]
        image = np.ascontiguousarray(image[strip((height, width), tiles, self._processor.tiles(image))])
        pictures = open_images(image)
        ids = self._processor.ids([self._processor.question(text, pictures)], pictures)
        pixels = self._processor.pixels(pictures[0])
        return Question(self._processor.prompt(ids, pictures, lambda _: pixels), ids, pixels)

    def answer(self, question: Question, most: int, forced: Sequence[int] = ()) -> tuple[tuple[int, ...], Logits]:
        """(at most `most` tokens, the logits (n, V) that each was chosen from); the first ones may be `forced`."""
        driver, cache, memory = self._generator.driver, self._state.cache, self._state.memory
        cache.clear()
        logits, _ = driver.read(question.prompt, cache, memory)
        tokens: list[int] = []
        every: list[Logits] = []
        while len(tokens) < most:
            every.append(logits)
            tokens.append(forced[len(tokens)] if len(tokens) < len(forced) else int(np.argmax(logits)))
            if len(tokens) == most or (not forced and tokens[-1] in self._stop_ids):
                break
            logits = driver.step(tokens[-1], cache, memory)
        return tuple(tokens), np.stack(every)

    def close(self) -> None:
        """Free the engines."""
        self._chat.close()

    def __enter__(self) -> Talk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def strip(size: tuple[int, int], most: int | None, tiles: int) -> slice:
    """The rows that are shown of a picture (height, width) of so many `tiles`: all, or few for `most`."""
    height, width = size
    if most is None or tiles <= most + 1:  # and the whole picture after them
        return slice(0, height)
    middle, half = height // 2, max(1, width // STRIP // 2)
    return slice(max(0, middle - half), min(height, middle + half))


def words(needs_text: bool, place: int, text: str) -> str:
    """What the picture at `place` is shown with: every second one with nothing, where a model needs no words."""
    return "" if place % 2 and not needs_text else text


def _samples(data: PictureData, most: int | None) -> list[tuple[int, Photo, str]]:
    asked = questions(data.calibration, data.calibration_texts, most or PROMPTS)
    return [(place, photo, text) for place, (photo, text) in enumerate(asked)]


def _ask(talk: Talk, sample: tuple[int, Photo, str], most: int = ANSWER_TOKENS) -> None:
    place, photo, text = sample
    talk.answer(talk.question(photo, words(talk.needs_text, place, text)), most)


CHAT = CalibrationRun(open=Talk, samples=_samples, play=each(_ask), origin=origin)
# Of each answer the runs of its prompt and its first new word.
CHAT_PROBE = replace(CHAT, play=each(partial(_ask, most=2)))
