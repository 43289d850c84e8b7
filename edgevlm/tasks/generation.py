"""The part that chats and their sessions share: a model with its words, and readers that remember what they read."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from edgevlm.drivers import ChatDriver, KVCache, Prompt, Sampler
from edgevlm.errors import BundleError, ContractError, InstructionError, PromptError, SessionError
from edgevlm.graph import Clock, Graph, Memory
from edgevlm.manifest.drivers import KVDecoderSpec
from edgevlm.tasks.generation_config import (
    Answer,
    AnswerStream,
    Ended,
    GenerationConfig,
    GenerationOptions,
    ImageInput,
    Pictures,
    Token,
    open_images,
)
from edgevlm.tasks.processor import ChatProcessor, Pixels
from edgevlm.text import StreamingDetokenizer, Turn


class GenerationState:
    """What one reader has read: state for one answer at a time."""

    def __init__(self, cache: KVCache, memory: Memory) -> None:
        self.cache, self.memory = cache, memory
        self._busy = threading.Lock()

    def take(self) -> bool:
        """Whether nobody else had it; who got it gives it back."""
        return self._busy.acquire(blocking=False)

    def give_back(self) -> None:
        """The next one may take it."""
        self._busy.release()


class Watch:
    """The time spent on one question, without what others took of it.

    Attributes:
        preprocess_ns: of it, what opening and preparing pictures took.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._spent, self._since = clock, 0, clock()
        self.preprocess_ns = 0

    @property
    def spent_ns(self) -> int:
        """So far; to be read while it runs."""
        return self._spent + self._clock() - self._since

    def pause(self) -> None:
        """Somebody else's time begins."""
        self._spent = self.spent_ns

    def go_on(self) -> None:
        """It ends."""
        self._since = self._clock()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the one who listens has the word."""
        self.pause()
        try:
            yield
        finally:
            self.go_on()

    @contextmanager
    def preprocessing(self) -> Iterator[None]:
        """While a picture is opened or prepared."""
        started = self._clock()
        try:
            yield
        finally:
            self.preprocess_ns += self._clock() - started


@dataclass(frozen=True)
class Question:
    """One question, its words checked and its pictures open; its watch is paused."""

    turn: Turn
    pictures: tuple[ImageInput, ...]
    request: GenerationConfig
    watch: Watch


class _Cancelled(Exception):
    """Nobody wants the answer any more."""


@dataclass
class _Progress:
    """How far an answer has come."""

    ended: Ended = "length"
    reused: int = 0
    first_ns: int = 0


class TextGenerator:
    """The engines and words of one bundle. Threads may share it, each with a reader of its own.

    Attributes:
        processor: words and pictures -> prompts.
        driver: what says the next word.
        stop_ids: tokens that end an answer.
        last_times_ns: of the last answer.

    Raises:
        BundleError: the tokenizer has more words than the driver.
    """

    def __init__(
        self, processor: ChatProcessor, driver: ChatDriver, graph: Graph, args: KVDecoderSpec, clock: Clock
    ) -> None:
        self.processor, self.driver = processor, driver
        self._graph, self._args, self._clock = graph, args, clock
        self.stop_ids = args.stop_ids
        self._check_ids()
        self._tally = threading.Lock()
        self._runs: Counter[str] = Counter()
        self.last_times_ns: dict[str, int] = {}

    @property
    def runs(self) -> MappingProxyType[str, int]:
        """Stage -> engine runs since the bundle was loaded."""
        return MappingProxyType(self._runs)

    def reader(self) -> GenerationState:
        """Someone who has read nothing yet."""
        return GenerationState(self.driver.cache(), self.driver.memory())

    def question(self, image: Pictures, text: str, how: GenerationOptions) -> Question:
        """What was asked, with every fault that it has by itself.

        Raises:
            InstructionError, PromptError, ContractError: the words and options.
            ShapeError, PictureError: a picture.
            SessionError: the chat was closed.
        """
        watch = Watch(self._clock)
        if self._graph.closed:
            raise SessionError("chat: expected an open one, it was closed; load the bundle again")
        asked = GenerationConfig(**how)
        if asked.max_new_tokens >= self._args.cache.slots:
            raise ContractError(
                f"max_new_tokens: expected less than the {self._args.cache.slots} tokens that question and answer "
                f"have together, got {asked.max_new_tokens}; export with a larger --context"
            )
        if text == "" and self.processor.words.needs_text and isinstance(image, str) and not os.path.exists(image):
            raise InstructionError(
                f"text: expected words, got none, and no picture is at {image!r:.80}; a question goes in as text=..."
            )
        pictures: list[ImageInput] = []
        if image is not None:
            with watch.preprocessing():
                pictures = open_images(image)
        turn = self.processor.question(text, pictures)
        watch.pause()
        return Question(turn, tuple(pictures), asked, watch)

    def prompt(self, turns: Sequence[Turn], pictures: Sequence[ImageInput], question: Question) -> Prompt:
        """The prompt of a dialogue that ends with `question`. Raises InstructionError, PromptError, PictureError."""
        watch = question.watch

        def pixels(image_input: ImageInput) -> Pixels:
            with watch.preprocessing():
                return self.processor.pixels(image_input)

        watch.go_on()
        try:
            ids = self.processor.ids(turns, pictures)
            prompt = self.processor.prompt(ids, pictures, pixels)
            self._check_room(len(prompt.cache_keys), len(turns), question.request)
            return prompt
        finally:
            watch.pause()

    def speak(self, prompt: Prompt, question: Question, reader: GenerationState) -> AnswerStream:
        """The answer, by a reader that the caller has taken.

        Raises:
            NonFiniteError: the model's output is not finite.
            EngineError: an engine failed.
            SessionError: the chat was closed, also while the answer was coming.
        """
        memory, watch, progress = reader.memory, question.watch, _Progress()
        speech = self.processor.words.stream(question.turn.text, question.request.stop)
        before = Counter(memory.runs)
        memory.begin_step()
        watch.go_on()
        try:
            try:
                yield from self._words(prompt, question, reader, speech, progress)
            except _Cancelled:
                progress.ended = "cancelled"
            if rest := speech.finish():
                with watch.waiting():
                    yield Token(rest, None)
        finally:
            if watch.preprocess_ns:
                memory.add_time("preprocess", watch.preprocess_ns)
            times = {**memory.times_ns, "step": watch.spent_ns}
            with self._tally:
                self._runs.update(Counter(memory.runs) - before)
                self.last_times_ns = times
        size, first_s = prompt.tokens, progress.first_ns / 1e9
        return Answer(speech.text, tuple(speech.token_ids), progress.ended, size, progress.reused, first_s, times)

    def _words(
        self,
        prompt: Prompt,
        question: Question,
        reader: GenerationState,
        speech: StreamingDetokenizer,
        progress: _Progress,
    ) -> Generator[Token, None, None]:
        asked, watch = question.request, question.watch

        def check() -> None:
            if asked.cancelled:
                raise _Cancelled

        sampler = Sampler(asked.sampling)
        logits, progress.reused = self.driver.read(prompt, reader.cache, reader.memory, check)
        for count in range(1, asked.max_new_tokens + 1):
            token = sampler.pick(logits)
            progress.first_ns = progress.first_ns or watch.spent_ns
            if token in self.stop_ids:
                progress.ended = "stop"
                return
            piece = Token(speech.add(token), token)
            with watch.waiting():
                yield piece
            if speech.stopped:
                progress.ended = "stop"
                return
            if count < asked.max_new_tokens:
                check()
                logits = self.driver.step(token, reader.cache, reader.memory)

    def _check_room(self, tokens: int, turns: int, asked: GenerationConfig) -> None:
        slots, answer = self._args.cache.slots, asked.max_new_tokens
        if tokens <= slots - answer:
            return
        limit = f"prompt: expected at most {slots - answer} tokens beside an answer of {answer}, "
        larger = f"or export with a larger --context than {slots}"
        if turns == 1:
            raise PromptError(
                f"{limit}the question has {tokens}; ask in fewer words, with fewer pictures or for a shorter answer, "
                f"{larger}"
            )
        raise PromptError(
            f"{limit}the dialogue has {tokens} in {turns} turns; begin anew with reset() or in a new session, ask "
            f"for a shorter answer, {larger}"
        )

    def _check_ids(self) -> None:
        size, rows = self.processor.words.size, self.driver.vocabulary
        if size > rows:
            raise BundleError(
                f"tokenizer: expected at most {rows} ids, as many as the embeddings have rows, got {size}; it belongs "
                "to another checkpoint: export the bundle again"
            )
