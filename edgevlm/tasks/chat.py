"""A chat: pictures and questions in, text out, token by token."""

from __future__ import annotations

import threading
import time
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

from edgevlm.bundle import Bundle
from edgevlm.drivers import Prompt
from edgevlm.engines import EngineFactory, open_engine
from edgevlm.errors import TaskError
from edgevlm.graph import Clock
from edgevlm.options import RuntimeOptions
from edgevlm.tasks.generation import GenerationState, Question, TextGenerator
from edgevlm.tasks.generation_config import (
    Answer,
    AnswerStream,
    GenerationOptions,
    ModelInputs,
    Pictures,
    collect,
    open_images,
)
from edgevlm.tasks.session import ChatSession
from edgevlm.text import Turn

if TYPE_CHECKING:
    from typing_extensions import Unpack

READERS = 2  # kept: one that reads again what it read, and a spare one for a question asked while it is busy


class Chat:
    """A loaded model. Threads may share it; a question about what was read before is answered sooner.

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
        self.bundle, self.options, self.clock = bundle, options, clock
        self._generator = TextGenerator(bundle, options, engines, clock)
        self._readers = [self._generator.reader()]
        self._turn, self._choice = threading.Lock(), threading.Lock()

    @property
    def needs_text(self) -> bool:
        """Whether a question without words is refused: a model that captions pictures needs none."""
        return self._generator.processor.words.needs_text

    @property
    def stage_runs(self) -> MappingProxyType[str, int]:
        """Stage -> engine runs since the bundle was loaded."""
        return self._generator.runs

    @property
    def last_times_ns(self) -> dict[str, int]:
        """Of the last answer: "step", "preprocess" and the engine time of each stage that ran."""
        return self._generator.last_times_ns

    def ask(self, image: Pictures = None, text: str = "", **how: Unpack[GenerationOptions]) -> Answer:
        """The answer to one question; threads take turns.

        Args:
            image: a picture, several, or none.
            how: see `GenerationConfig`.

        Raises:
            InstructionError, PromptError, ContractError: the question.
            ShapeError, PictureError: the picture.
            NonFiniteError: the model's output is not finite.
            EngineError: an engine failed.
            SessionError: the chat was closed, also while the answer was coming.
        """
        question = self._generator.question(image, text, how)
        prompt = self._generator.prompt([question.turn], question.pictures, question)
        with self._turn:
            return collect(self._alone(prompt, question))

    def stream(self, image: Pictures = None, text: str = "", **how: Unpack[GenerationOptions]) -> AnswerStream:
        """The answer as it comes; closing the iterator ends it; its return value is the `Answer`.

        Raises as `ask` does: what is wrong with the question at once, the rest while the answer comes.
        """
        question = self._generator.question(image, text, how)
        return self._alone(self._generator.prompt([question.turn], question.pictures, question), question)

    def session(self, system: str | None = None) -> ChatSession:
        """A dialogue, which remembers what was said and shown; `system` is said to the model before all of it.

        Raises:
            TaskError: the model answers one question at a time.
            InstructionError, PromptError: the system text.
        """
        words = self._generator.processor.words
        if not words.knows_turns:
            raise TaskError(
                f"{self.bundle.root}: expected a model that was taught dialogues, this one answers one question at a "
                "time; use ask()"
            )
        return ChatSession(self._generator, () if system is None else (Turn("system", words.check(system)),))

    def prepare(self, image: Pictures = None, text: str = "") -> ModelInputs:
        """What the model would get for one question. Raises as `ask` does."""
        processor, pictures = self._generator.processor, open_images(image)
        ids = processor.ids([processor.question(text, pictures)], pictures)
        return ModelInputs(ids, tuple(processor.pixels(picture) for picture in pictures))

    def close(self) -> None:
        """Free the engines; every later call, and an answer that is still coming, raises SessionError."""
        self._generator.close()

    def __enter__(self) -> Chat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _alone(self, prompt: Prompt, question: Question) -> AnswerStream:
        """The answer by one of the chat's own readers, or by a new one while all of them are busy."""
        reader = self._free_reader()
        try:
            return (yield from self._generator.speak(prompt, question, reader))
        finally:
            reader.give_back()

    def _free_reader(self) -> GenerationState:
        with self._choice:
            for reader in self._readers:
                if reader.take():
                    return reader
            reader = self._generator.reader()
            reader.take()
            if len(self._readers) < READERS:
                self._readers.append(reader)
            return reader
