"""What a manifest says of words: how a text, or a prompt of words and pictures, becomes token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from edgevlm.contract import MOST_TOKENS, Spec

IMAGES, TEXT = "{images}", "{text}"  # what `PromptSpec.plain` has for the pictures and for the words
IMAGE, ROW, COLUMN = "{image}", "{row}", "{column}"  # what the patterns of a `PictureText` may have


class TextSpec(Spec):
    """How a text becomes ids, where no contract says it. Since 1.1.

    Attributes:
        max_tokens: the longest text, special tokens included; a longer one is refused.
        length: `own` gives as many ids as the text has, `fixed` always `max_tokens`, filled up at the end.
        pad_id: what fills up.
    """

    max_tokens: int = Field(gt=0, le=MOST_TOKENS)
    length: Literal["own", "fixed"]
    pad_id: int = Field(default=0, ge=0)


class QuestionSpec(Spec):
    """How a question becomes ids, where it is not read in one row with the picture. Since 1.3.

    Attributes:
        reader: which stage reads it: the `encoder`, and the answer begins with nothing but `begin` of the loop; or the
            `decoder`, after `begin`, and the answer goes on from there.
        max_tokens: the longest question, special tokens included; a longer one is refused.
        special_tokens: whether the tokenizer adds its own special tokens around the question.
        needs_text: whether a picture without a question is refused.
    """

    reader: Literal["encoder", "decoder"]
    max_tokens: int = Field(gt=0, le=MOST_TOKENS)
    special_tokens: bool
    needs_text: bool


class PictureText(Spec):
    """What stands in a prompt for one picture. Since 1.2.

    `{image}` is a tile's image tokens; `{row}` and `{column}` count from 1. A picture of one tile is `whole`; one of a
    grid of R x C tiles is `tile` for each of them, row by row, with `row_end` after every row, then `after_tiles`.

    Attributes:
        tile, row_end, after_tiles: empty where pictures are never cut into tiles.
    """

    whole: str
    tile: str = ""
    row_end: str = ""
    after_tiles: str = ""

    @model_validator(mode="after")
    def _one_image_each(self) -> PictureText:
        tiled = ("tile", "after_tiles") if self.tile or self.row_end or self.after_tiles else ()
        for name in ("whole", *tiled):
            if getattr(self, name).count(IMAGE) != 1:
                raise ValueError(f"{name} must have {IMAGE!r} once, got {getattr(self, name)!r}")
        return self


class PromptSpec(Spec):
    """How words and pictures become the ids of a prompt. Since 1.2.

    Exactly one of `template` and `plain` is given. Where it writes `placeholder`, a picture's text goes in.

    Attributes:
        template: file, a Jinja chat template over `messages` whose contents are lists of parts
            ({"type": "image"} or {"type": "text", "text": ...}), as checkpoints have them.
        plain: of models that know no dialogue: a pattern with `{images}` and `{text}`, each once.
        variables: what the template may use besides the messages, such as `bos_token`.
        placeholder: what stands for one picture in the rendered prompt.
        image_id: the token whose vector is replaced by one of a picture's features.
        picture_tokens: features, and so image tokens, of one tile.
        needs_picture: whether a question without a picture is refused.
        most_pictures: how many may be shown; null for as many as fit. Since 1.3.
        needs_text: whether a picture without a question is refused. Since 1.3.
        special_tokens: whether the tokenizer adds its own special tokens around the prompt ..
        unless_begins: .. but not to a prompt that begins with this text; empty for no such rule.
    """

    template: str | None = None
    plain: str | None = None
    variables: Mapping[str, str] = {}
    placeholder: str = Field(min_length=1)
    image_id: int = Field(ge=0)
    picture_tokens: int = Field(gt=0, le=MOST_TOKENS)
    picture: PictureText
    needs_picture: bool = False
    most_pictures: int | None = Field(default=None, gt=0, le=MOST_TOKENS)
    needs_text: bool = True
    special_tokens: bool = True
    unless_begins: str = ""

    @model_validator(mode="after")
    def _one_way(self) -> PromptSpec:
        if (self.template is None) == (self.plain is None):
            raise ValueError("exactly one of `template` and `plain` must be given")
        if self.plain is not None and (self.plain.count(IMAGES), self.plain.count(TEXT)) != (1, 1):
            raise ValueError(f"plain must have {IMAGES!r} and {TEXT!r} once each, got {self.plain!r}")
        return self
