"""What is asked of a model and what a chat says: values, without a model."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers import Sampling
from edgevlm.drivers.sampling import check_integer
from edgevlm.errors import ContractError, InstructionError
from edgevlm.images.files import open_photo
from edgevlm.preprocess import check_picture
from edgevlm.text import check_stops

Ended: TypeAlias = Literal["stop", "length", "cancelled"]
Picture: TypeAlias = NDArray[np.uint8] | str | os.PathLike[str]  # RGB (H, W, 3), or a JPEG or PNG file
Pictures: TypeAlias = Picture | Sequence[Picture] | None


class GenerationOptions(TypedDict, total=False):
    """How an answer is made; what is not given is as `GenerationConfig` has it."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: Iterable[str]
    cancel: threading.Event | None


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How an answer is made.

    Attributes:
        max_new_tokens: the longest answer.
        temperature, top_p, seed: see `Sampling`; a temperature of 0 is greedy.
        stop: texts that end the answer, besides the model's own sign; they are no part of it.
        cancel: once it is set, by any thread, the answer ends with what was said; looked at before each run of an
            engine: between the parts of a long prompt and between tokens.

    Raises:
        ContractError: a value that means nothing.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: Iterable[str] = ()
    cancel: threading.Event | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_new_tokens", check_integer("max_new_tokens", self.max_new_tokens, 1))
        object.__setattr__(self, "stop", check_stops(self.stop))
        if not (self.cancel is None or isinstance(self.cancel, threading.Event)):
            raise ContractError(f"cancel: expected a threading.Event, got {self.cancel!r:.80}")
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        """The part about chance."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, seed=self.seed)

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self.cancel is not None and self.cancel.is_set()


@dataclass(frozen=True)
class Token:
    """One step of an answer.

    Attributes:
        text: what is certain since the last one; empty where a character, or what may be a stop, is not whole yet.
        token_id: None for text that had waited when the answer ended.
    """

    text: str
    token_id: int | None


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        token_ids: of the answer, without the token that ended it, with those of a text of `stop`.
        ended: `stop` if the model had done or said a text of `stop`, `length` if it was cut off, `cancelled` if
            `cancel` was set.
        prompt_tokens: what the model had to read before it spoke ..
        reused_tokens: .. and how many of them it had read already; 0 where it was cancelled before it spoke.
        first_token_s: from the question, its pictures still closed, to the first token; 0 where there is none.
        times_ns: "step" (the whole), "preprocess" (pictures opened and prepared) and the engine time of each stage
            that ran. Neither figure has the time that a caller took between two tokens, or waited for its turn.
    """

    text: str
    token_ids: tuple[int, ...]
    ended: Ended
    prompt_tokens: int
    reused_tokens: int
    first_token_s: float
    times_ns: Mapping[str, int]


AnswerStream: TypeAlias = Generator[Token, None, Answer]  # an answer as it comes


@dataclass(frozen=True)
class ModelInputs:
    """What a model gets: ids with an image id for every feature, and the pixels (N, 3, S, S) of each picture."""

    ids: tuple[int, ...]
    pixels: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class ImageInput:
    """A picture of a dialogue, known again by its content."""

    image: NDArray[np.uint8]  # (H, W, 3)
    digest: bytes


def open_images(images: Pictures) -> list[ImageInput]:
    """The pictures of one question.

    Raises:
        ShapeError, PictureError: one of them.
        ContractError: something else than pictures.
    """
    return [ImageInput(image, _digest(image)) for image in map(_open, _each(images))]


def _each(images: Pictures) -> Iterator[Picture]:
    if images is None:
        return
    if isinstance(images, (list, tuple)):
        yield from images
    else:
        yield images  # type: ignore[misc] # a picture, or what `_open` refuses


def _open(picture: Picture) -> NDArray[np.uint8]:
    if isinstance(picture, (str, os.PathLike)):
        return check_picture(open_photo(picture))
    return check_picture(picture).copy()  # a camera's buffer may be written again while a dialogue still holds it


def _digest(image: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(image.data, digest_size=16, person=f"{image.shape[1]}".encode()).digest()


def listed(values: object, what: str, of: str) -> Sequence[Any]:
    """`values`, if it is a list or a tuple of something. Raises ContractError."""
    if isinstance(values, (str, bytes, bytearray)) or not isinstance(values, Sequence) or not values:
        got = f"an array of {values.shape}" if isinstance(values, np.ndarray) else f"{values!r:.80}"
        raise ContractError(f"{what}: expected a list of at least one {of}, got {got}")
    return values


def texts_of(texts: Sequence[str], what: str) -> tuple[str, ...]:
    """The texts of a list; `what` they are to the caller. Raises ContractError, InstructionError."""
    for text in listed(texts, what, "text"):
        if not isinstance(text, str):
            raise InstructionError(f"{what}: expected words, got {text!r:.80}; give a description or a label")
    return tuple(texts)


def collect(speaking: AnswerStream) -> Answer:
    """The whole answer."""
    while True:
        try:
            next(speaking)
        except StopIteration as done:
            answer: Answer = done.value
            return answer
