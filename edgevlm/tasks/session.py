"""A dialogue with a chat: what was said and shown stays, and is not read twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevlm.errors import SessionError
from edgevlm.tasks.generation import Question, TextGenerator
from edgevlm.tasks.generation_config import Answer, AnswerStream, GenerationOptions, ImageInput, Pictures, collect
from edgevlm.text import Turn

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ChatSession:
    """One dialogue. Not for two threads, nor for two answers, at once: the second one gets a SessionError.

    A question that failed, or whose answer was cancelled or cut off by closing its stream, leaves the dialogue as it
    was before. Nothing is ever dropped from a dialogue: when it has grown too long for the model, a PromptError says
    how many tokens it has, and `reset` or a new session begins anew.
    """

    def __init__(self, generator: TextGenerator, begin: tuple[Turn, ...]) -> None:
        self._generator, self._reader = generator, generator.reader()
        self._begin = begin
        self._turns, self._pictures = list(begin), list[ImageInput]()

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What was said, in order, the system text first if there is one."""
        return tuple(self._turns)

    def ask(self, image: Pictures = None, text: str = "", **how: Unpack[GenerationOptions]) -> Answer:
        """The answer to the next question. Raises as `Chat.ask` does, and SessionError."""
        return collect(self.stream(image, text, **how))

    def stream(self, image: Pictures = None, text: str = "", **how: Unpack[GenerationOptions]) -> AnswerStream:
        """The answer as it comes; closing the iterator ends it; its return value is the `Answer`.

        Raises as `ask` does: what is wrong with the question at once, the rest while the answer comes.
        """
        return self._next(self._generator.question(image, text, how))

    def reset(self) -> None:
        """Begin anew, with the system text alone. Raises SessionError."""
        self._take()
        try:
            self._turns, self._pictures = list(self._begin), []
            self._reader.cache.clear()
            self._reader.memory.clear()
        finally:
            self._reader.give_back()

    def _next(self, question: Question) -> AnswerStream:
        self._take()
        try:
            turns, pictures = [*self._turns, question.turn], [*self._pictures, *question.pictures]
            prompt = self._generator.prompt(turns, pictures, question)
            answer = yield from self._generator.speak(prompt, question, self._reader)
            if answer.ended != "cancelled":
                reply = Turn("assistant", self._generator.processor.words.clean_answer(answer.text))
                self._turns, self._pictures = [*turns, reply], pictures
            return answer
        finally:
            self._reader.give_back()

    def _take(self) -> None:
        if not self._reader.take():
            raise SessionError(
                "session: expected one question at a time, an answer is still coming; end or close it first, or give "
                "each thread a session of its own"
            )
