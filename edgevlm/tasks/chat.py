"""A chat: pictures and questions in, text out, token by token."""

from __future__ import annotations

import threading
import time
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

from edgevlm.bundle import Bundle
from edgevlm.drivers import Prompt
from edgevlm.engines import BackendFactory, open_backend
from edgevlm.errors import TaskError
from edgevlm.graph import Clock
from edgevlm.options import RuntimeOptions
from edgevlm.tasks.generation import Question, Reader, Speaker
from edgevlm.tasks.generation_config import Answer, How, Pictures, Prepared, Speaking, drain, show
from edgevlm.tasks.session import ChatSession
from edgevlm.text import Turn

if TYPE_CHECKING:
    from typing_extensions import Unpack

READERS = 2  # kept: one that reads again what it read, and a spare one for a question asked while it is busy


class Chat:
    """A loaded model. Threads may share it; a question about what was read before is answered sooner.

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
        self.bundle, self.options, self.clock = bundle, options, clock
        self._speaker = Speaker(bundle, options, backends, clock)
        self._readers = [self._speaker.reader()]
        self._turn, self._choice = threading.Lock(), threading.Lock()

    @property
    def needs_text(self) -> bool:
        """Whether a question without words is refused: a model that captions pictures needs none."""
        return self._speaker.prompter.words.needs_text

    @property
    def stage_runs(self) -> MappingProxyType[str, int]:
        """Stage -> engine runs since the bundle was loaded."""
        return self._speaker.runs

    @property
    def last_times_ns(self) -> dict[str, int]:
        """Of the last answer: "step", "preprocess" and the engine time of each stage that ran."""
        return self._speaker.last_times_ns

    def ask(self, image: Pictures = None, text: str = "", **how: Unpack[How]) -> Answer:
        """The answer to one question; threads take turns.

        Args:
            image: a picture, several, or none.
            how: see `Request`.

        Raises:
            InstructionError, PromptError, ContractError: the question.
            ShapeError, PictureError: the picture.
            NonFiniteError: the model's output is not finite.
            BackendError: an engine failed.
            SessionError: the chat was closed, also while the answer was coming.
        """
        question = self._speaker.question(image, text, how)
        prompt = self._speaker.prompt([question.turn], question.pictures, question)
        with self._turn:
            return drain(self._alone(prompt, question))

    def stream(self, image: Pictures = None, text: str = "", **how: Unpack[How]) -> Speaking:
        """The answer as it comes; closing the iterator ends it; its return value is the `Answer`.

        Raises as `ask` does: what is wrong with the question at once, the rest while the answer comes.
        """
        question = self._speaker.question(image, text, how)
        return self._alone(self._speaker.prompt([question.turn], question.pictures, question), question)

    def session(self, system: str | None = None) -> ChatSession:
        """A dialogue, which remembers what was said and shown; `system` is said to the model before all of it.

        Raises:
            TaskError: the model answers one question at a time.
            InstructionError, PromptError: the system text.
        """
        words = self._speaker.prompter.words
        if not words.knows_turns:
            raise TaskError(
                f"{self.bundle.root}: expected a model that was taught dialogues, this one answers one question at a "
                "time; use ask()"
            )
        return ChatSession(self._speaker, () if system is None else (Turn("system", words.check(system)),))

    def prepare(self, image: Pictures = None, text: str = "") -> Prepared:
        """What the model would get for one question. Raises as `ask` does."""
        prompter, pictures = self._speaker.prompter, show(image)
        ids = prompter.ids([prompter.question(text, pictures)], pictures)
        return Prepared(ids, tuple(prompter.pixels(shown) for shown in pictures))

    def close(self) -> None:
        """Free the engines; every later call, and an answer that is still coming, raises SessionError."""
        self._speaker.close()

    def __enter__(self) -> Chat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _alone(self, prompt: Prompt, question: Question) -> Speaking:
        """The answer by one of the chat's own readers, or by a new one while all of them are busy."""
        reader = self._free_reader()
        try:
            return (yield from self._speaker.speak(prompt, question, reader))
        finally:
            reader.give_back()

    def _free_reader(self) -> Reader:
        with self._choice:
            for reader in self._readers:
                if reader.take():
                    return reader
            reader = self._speaker.reader()
            reader.take()
            if len(self._readers) < READERS:
                self._readers.append(reader)
            return reader
