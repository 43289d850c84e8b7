"""A chat: pictures and questions in, text out, token by token."""

from __future__ import annotations

import threading
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgevlm.drivers import Prompt
from edgevlm.errors import TaskError
from edgevlm.graph import Graph
from edgevlm.manifest.schema import ChatManifest
from edgevlm.tasks.assembly import open_chat_driver
from edgevlm.tasks.base import Model
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
from edgevlm.tasks.processor import open_processor
from edgevlm.tasks.session import ChatSession
from edgevlm.text import Turn

if TYPE_CHECKING:
    from typing_extensions import Unpack

READERS = 2  # kept: one that reads again what it read, and a spare one for a question asked while it is busy


class Chat(Model):
    """A loaded model. Threads may share it; a question about what was read before is answered sooner.

    Attributes:
        generator: its driver and words, for who asks for logits.

    Raises:
        TaskError, BundleError, DependencyError, EngineError: when opening.
    """

    def _read_manifest(self) -> None:
        self._manifest = self.bundle.manifest.require(ChatManifest)
        self._processor = open_processor(self.bundle)
        self._turn, self._choice = threading.Lock(), threading.Lock()

    def _open_driver(self, graph: Graph) -> None:
        driver = open_chat_driver(self.bundle, self._manifest, graph)
        self.generator = TextGenerator(self._processor, driver, graph, self._manifest.driver.args, self.clock)
        self._readers = [self.generator.reader()]

    @property
    def needs_text(self) -> bool:
        """Whether a question without words is refused: a model that captions pictures needs none."""
        return self._processor.words.needs_text

    @property
    def stage_runs(self) -> MappingProxyType[str, int]:
        """Stage -> engine runs since the bundle was loaded."""
        return self.generator.runs

    @property
    def last_times_ns(self) -> dict[str, int]:
        """Of the last answer: "step", "preprocess" and the engine time of each stage that ran."""
        return self.generator.last_times_ns

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
        question = self.generator.question(image, text, how)
        prompt = self.generator.prompt([question.turn], question.pictures, question)
        with self._turn:
            return collect(self._alone(prompt, question))

    def stream(self, image: Pictures = None, text: str = "", **how: Unpack[GenerationOptions]) -> AnswerStream:
        """The answer as it comes; closing the iterator ends it; its return value is the `Answer`.

        Raises as `ask` does: what is wrong with the question at once, the rest while the answer comes.
        """
        question = self.generator.question(image, text, how)
        return self._alone(self.generator.prompt([question.turn], question.pictures, question), question)

    def session(self, system: str | None = None) -> ChatSession:
        """A dialogue, which remembers what was said and shown; `system` is said to the model before all of it.

        Raises:
            TaskError: the model answers one question at a time.
            InstructionError, PromptError: the system text.
        """
        words = self._processor.words
        if not words.knows_turns:
            raise TaskError(
                f"{self.bundle.root}: expected a model that was taught dialogues, this one answers one question at a "
                "time; use ask()"
            )
        return ChatSession(self.generator, () if system is None else (Turn("system", words.check(system)),))

    def prepare(self, image: Pictures = None, text: str = "") -> ModelInputs:
        """What the model would get for one question. Raises as `ask` does."""
        processor, pictures = self._processor, open_images(image)
        ids = processor.ids([processor.question(text, pictures)], pictures)
        return ModelInputs(ids, tuple(processor.pixels(picture) for picture in pictures))

    def _alone(self, prompt: Prompt, question: Question) -> AnswerStream:
        """The answer by one of the chat's own readers, or by a new one while all of them are busy."""
        reader = self._free_reader()
        try:
            return (yield from self.generator.speak(prompt, question, reader))
        finally:
            reader.give_back()

    def _free_reader(self) -> GenerationState:
        with self._choice:
            for reader in self._readers:
                if reader.take():
                    return reader
            reader = self.generator.reader()
            reader.take()
            if len(self._readers) < READERS:
                self._readers.append(reader)
            return reader
