"""A dialogue of words and pictures as the ids that a model reads, by the manifest's rules and nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgevlm.errors import BundleError, InstructionError, PromptError, TaskError
from edgevlm.manifest import PromptSpec
from edgevlm.text.opened import is_unicode, open_tokenizer
from edgevlm.text.template import ChatTemplate
from edgevlm.wording import COLUMN, IMAGE, IMAGES, ROW, TEXT

_SHOWN = 80  # characters of a text in a message
MAX_TEXT = 1 << 20  # characters of one turn: more than any model reads

Grid = tuple[int, int]  # rows and columns of a picture's tiles; (0, 0) where it is not cut


@dataclass(frozen=True)
class Turn:
    """What one side said; its pictures come before its words."""

    role: Literal["system", "user", "assistant"]
    text: str
    pictures: int = 0


class PromptWriter:
    """One tokenizer.json and one template or pattern. Immutable; the same dialogue gives equal ids every time.

    Args:
        template: the text of the file that `spec.template` names.

    Raises:
        BundleError: the tokenizer or the template cannot be read, or has no image token.
        DependencyError: jinja2 is not installed.
    """

    def __init__(self, spec: PromptSpec, tokenizer: str | os.PathLike[str], template: str | None) -> None:
        self._spec = spec
        self._fast, file = open_tokenizer(tokenizer)
        self._fast.no_padding()
        self._fast.no_truncation()
        self._template = None if template is None else ChatTemplate(template, spec.variables)
        image = self._fast.id_to_token(spec.image_id)
        if image is None:
            raise BundleError(
                f"{os.fspath(tokenizer)}: expected an image token of the id {spec.image_id}, the tokenizer has none; "
                "export the bundle again"
            )
        self._image: str = image
        self._special = {**_special_tokens(file), image: spec.image_id}
        self._reserved = (spec.placeholder, image, *self._special)

    @property
    def knows_turns(self) -> bool:
        """Whether there can be more than one question and one answer."""
        return self._template is not None

    @property
    def size(self) -> int:
        """One more than the highest id that the tokenizer may give."""
        return 1 + max(self._fast.get_vocab(with_added_tokens=True).values(), default=-1)

    def ids(self, turns: Sequence[Turn], grids: Sequence[Grid]) -> list[int]:
        """The prompt up to where the answer begins, an image id for every feature; `grids` of all pictures in order.

        Raises:
            InstructionError: a turn has no words.
            PromptError: a turn has an image token in its words, or the template refuses the dialogue.
            TaskError: several turns, for a model that knows none.
        """
        rendered = self._plain(turns) if self._template is None else self._template.render(self._messages(turns))
        pieces = rendered.split(self._spec.placeholder)
        if len(pieces) != len(grids) + 1:
            raise PromptError(
                f"prompt: expected a place for each of {len(grids)} pictures, the template gave {len(pieces) - 1}; "
                "ask about as many pictures as the model takes"
            )
        pictures = [*(self._picture(grid) for grid in grids), ""]
        text = "".join(part for pair in zip(pieces, pictures, strict=True) for part in pair)
        begins = self._spec.unless_begins
        special = self._spec.special_tokens and not (begins and rendered.startswith(begins))
        ids: list[int] = self._fast.encode(text, add_special_tokens=special).ids
        wanted = sum(tiles(grid) for grid in grids) * self._spec.picture_tokens
        if ids.count(self._spec.image_id) != wanted:
            raise PromptError(
                f"prompt: expected {wanted} image tokens for {len(grids)} pictures, the tokenizer gave "
                f"{ids.count(self._spec.image_id)}; export the bundle again"
            )
        return ids

    def said(self, text: str) -> str:
        """What a model said, as it may stand in a later prompt.

        Without what would be a picture or a sign there; and without white space around it, for templates write their
        own before the words: a second space would be other tokens than those that the model said.
        """
        while any(token in text for token in self._reserved):
            for token in self._reserved:
                text = text.replace(token, "")
        return text.strip()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a model's own tokens; the special ones say nothing."""
        text: str = self._fast.decode(list(ids), skip_special_tokens=True)
        return text

    def check(self, text: object) -> str:
        """The words of a user, if they are some.

        Raises:
            InstructionError: no text, or none that can be written.
            PromptError: too long, or with an image token or another sign of the model's among the words.
        """
        if not isinstance(text, str) or not text.strip() or not is_unicode(text):
            raise InstructionError(f"text: expected words, got {text!r:.{_SHOWN}}; ask something")
        if len(text) > MAX_TEXT:
            raise PromptError(f"text: expected at most {MAX_TEXT} characters, got {len(text)}; say it in fewer")
        ids = set(self._fast.encode(text, add_special_tokens=False).ids)
        read = (token for token, number in self._special.items() if number in ids)  # written so that it becomes one
        for token in (*(token for token in self._reserved if token in text), *read):
            todo = "give pictures as `image`" if token in self._reserved[:2] else "it is a sign of the model's own"
            raise PromptError(f"text {text!r:.{_SHOWN}}: expected words, got {token!r} among them; {todo}")
        return text

    def _plain(self, turns: Sequence[Turn]) -> str:
        if len(turns) != 1 or turns[0].role != "user":
            raise TaskError(
                "dialogue: this model answers one question at a time and knows no turns and no system text; use ask()"
            )
        (turn,) = turns
        parts = {IMAGES: self._spec.placeholder * turn.pictures, TEXT: turn.text}
        return _filled(self._spec.plain or "", parts)

    def _messages(self, turns: Sequence[Turn]) -> list[dict[str, object]]:
        return [
            {
                "role": turn.role,
                "content": [*({"type": "image"} for _ in range(turn.pictures)), {"type": "text", "text": turn.text}],
            }
            for turn in turns
        ]

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


def _special_tokens(file: Mapping[str, Any]) -> dict[str, int]:
    """The signs that only a template may write, with their ids; not the one for words that nobody knows."""
    model = file.get("model", {})
    unknown = model.get("unk_token")
    if isinstance(number := model.get("unk_id"), int):
        unknown = model["vocab"][number][0]
    added = [token for token in file.get("added_tokens", ()) if token.get("special")]
    return {token["content"]: token["id"] for token in added if token["content"] not in ("", unknown)}


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
