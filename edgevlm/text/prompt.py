"""A dialogue of words and pictures as the ids that a model reads, by the manifest's rules and nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgevlm.errors import BundleError, PromptError, TaskError
from edgevlm.manifest import PromptSpec
from edgevlm.text.template import ChatTemplate
from edgevlm.text.words import Words
from edgevlm.wording import COLUMN, IMAGE, IMAGES, ROW, TEXT

Grid = tuple[int, int]  # rows and columns of a picture's tiles; (0, 0) where it is not cut


@dataclass(frozen=True)
class Turn:
    """What one side said; its pictures come before its words."""

    role: Literal["system", "user", "assistant"]
    text: str
    pictures: int = 0


class PromptWriter(Words):
    """One tokenizer.json and one template or pattern. Immutable; the same dialogue gives equal ids every time.

    Args:
        template: the text of the file that `spec.template` names.

    Raises:
        BundleError: the tokenizer or the template cannot be read, or has no image token.
        DependencyError: jinja2 is not installed.
    """

    def __init__(self, spec: PromptSpec, tokenizer: str | os.PathLike[str], template: str | None) -> None:
        super().__init__(tokenizer, needs_text=spec.needs_text)
        self._spec = spec
        self._template = None if template is None else ChatTemplate(template, spec.variables)
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
        return self._template is not None

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
        ids: list[int] = self.fast.encode(text, add_special_tokens=special).ids
        wanted = sum(tiles(grid) for grid in grids) * self._spec.picture_tokens
        if ids.count(self._spec.image_id) != wanted:
            raise PromptError(
                f"prompt: expected {wanted} image tokens for {len(grids)} pictures, the tokenizer gave "
                f"{ids.count(self._spec.image_id)}; export the bundle again"
            )
        return ids

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
