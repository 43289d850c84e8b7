"""A dialogue of words and pictures, or a question apart from its picture, as token ids, by the manifest's rules."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache

from edgevlm.errors import BundleError, PromptError, TaskError
from edgevlm.manifest.schema import PromptSpec
from edgevlm.manifest.text import COLUMN, IMAGE, IMAGES, ROW, TEXT, QuestionSpec
from edgevlm.text.chat_text import Turn, chat_text
from edgevlm.text.special_tokens import SHOWN, SpecialTokens

Grid = tuple[int, int]  # rows and columns of a picture's tiles; (0, 0) where it is not cut


class PromptWriter(SpecialTokens):
    """One tokenizer.json and one dialogue or pattern. Immutable; the same turns give equal ids every time.

    Raises:
        BundleError: the tokenizer cannot be read or has no image token, or the spec has a template: see `as_data`.
    """

    def __init__(self, spec: PromptSpec, tokenizer: str | os.PathLike[str]) -> None:
        super().__init__(tokenizer, needs_text=spec.needs_text)
        if spec.template is not None:
            raise BundleError("prompt: expected a dialogue or a pattern, got a chat template, which is a program")
        self._spec = spec
        image = self.fast.id_to_token(spec.image_id)
        if image is None:
            raise BundleError(
                f"{os.fspath(tokenizer)}: expected an image token of the id {spec.image_id}, the tokenizer has none; "
                "export the bundle again"
            )
        self._image: str = image
        self.mark_pictures(image, spec.image_id, spec.placeholder)

    @property
    def knows_turns(self) -> bool:
        """Whether there can be more than one question and one answer."""
        return self._spec.dialogue is not None

    def ids(self, turns: Sequence[Turn], grids: Sequence[Grid]) -> list[int]:
        """The prompt up to where the answer begins, an image id for every feature; `grids` of all pictures in order.

        Raises:
            InstructionError: a turn has no words.
            PromptError: a turn has an image token in its words, or the model's template takes no such dialogue.
            TaskError: several turns, for a model that knows none.
        """
        dialogue = self._spec.dialogue
        pieces = self._plain(turns) if dialogue is None else chat_text(dialogue, turns)
        if len(pieces) != len(grids) + 1:
            raise PromptError(f"prompt: expected {len(pieces) - 1} pictures, as the turns have, got {len(grids)}")
        pictures = [*(self._picture(grid) for grid in grids), ""]
        text = "".join(part for pair in zip(pieces, pictures, strict=True) for part in pair)
        begins = self._spec.unless_begins
        special = self._spec.special_tokens and not (begins and pieces[0].startswith(begins))
        ids: list[int] = self.fast.encode(text, add_special_tokens=special).ids
        expected = sum(tiles(grid) for grid in grids) * self._spec.picture_tokens
        if ids.count(self._spec.image_id) != expected:
            raise PromptError(
                f"prompt: expected {expected} image tokens for {len(grids)} pictures, the tokenizer gave "
                f"{ids.count(self._spec.image_id)}; export the bundle again"
            )
        return ids

    def _plain(self, turns: Sequence[Turn]) -> list[str]:
        if len(turns) != 1 or turns[0].role != "user":
            raise TaskError(
                "dialogue: this model answers one question at a time and knows no turns and no system text; use ask()"
            )
        (turn,) = turns
        parts = {IMAGES: self._spec.placeholder * turn.pictures, TEXT: turn.text}
        return _filled(self._spec.plain or "", parts).split(self._spec.placeholder)

    def _picture(self, grid: Grid) -> str:
        """What stands for one picture."""
        text, tokens = self._spec.picture, {IMAGE: self._image * self._spec.picture_tokens}
        rows, columns = grid
        if rows * columns == 0:
            return _filled(text.whole, tokens)
        lines = [
            "".join(_filled(text.tile, {**tokens, ROW: str(row), COLUMN: str(column)}) for column in _from_1(columns))
            for row in _from_1(rows)
        ]
        return "".join(line + text.row_end for line in lines) + _filled(text.after_tiles, tokens)


class QuestionWriter(SpecialTokens):
    """One tokenizer.json and the rule for questions. Immutable; the same question gives equal ids every time.

    Args:
        begin: the tokens that every answer's row begins with.

    Raises:
        BundleError: the tokenizer cannot be read.
    """

    def __init__(self, spec: QuestionSpec, tokenizer: str | os.PathLike[str], begin: tuple[int, ...]) -> None:
        super().__init__(tokenizer, needs_text=spec.needs_text)
        self._spec, self._begin = spec, begin
        self._encode = lru_cache(maxsize=1)(self.fast.encode)  # a question is checked, read and gone on from

    @property
    def encoded(self) -> bool:
        """Whether an encoder reads the question, and not the decoder."""
        return self._spec.reader == "encoder"

    def ids(self, text: str) -> tuple[int, ...]:
        """What reads the question gets of it: all of the encoder's ids, or what the decoder's row begins with.

        Raises:
            PromptError: longer than `max_tokens`.
        """
        own = self._own(text)
        if len(own) > self._spec.max_tokens:
            raise PromptError(
                f"text {text!r:.{SHOWN}}: expected a question of at most {self._spec.max_tokens} tokens, got "
                f"{len(own)}; ask in fewer words"
            )
        return own if self.encoded else (*self._begin, *own)

    def _begun(self, text: str) -> Sequence[int]:
        return () if self.encoded else self._own(text)

    def _words(self, text: str) -> Sequence[int]:
        encoding = self._encode(text)
        return [number for number, added in zip(encoding.ids, encoding.special_tokens_mask, strict=True) if not added]

    def _own(self, text: str) -> tuple[int, ...]:
        return tuple(self._encode(text).ids if self._spec.special_tokens else self._words(text))


def tiles(grid: Grid) -> int:
    """How many tiles a picture becomes: those of the grid and, after them, the whole."""
    rows, columns = grid
    return rows * columns + 1


def _from_1(count: int) -> range:
    return range(1, count + 1)


def _filled(pattern: str, parts: Mapping[str, str]) -> str:
    """`pattern` with each key of `parts` replaced; what is put in is never read for keys again."""
    if not parts:
        return pattern
    (key, value), *rest = parts.items()
    return value.join(_filled(piece, dict(rest)) for piece in pattern.split(key))
