"""What a manifest says of words: how a text, or a prompt of words and pictures, becomes token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from edgevlm.manifest.contract import MOST_TOKENS, Spec

IMAGES, TEXT = "{images}", "{text}"  # what `PromptSpec.plain` has for the pictures and for the words
IMAGE, ROW, COLUMN = "{image}", "{row}", "{column}"  # what the patterns of a `PictureText` may have
MAX_GAP = 1 << 16  # characters between two slots of a prompt: the longest known default system text has 3,000

Role: TypeAlias = Literal["system", "user", "assistant"]
Strip: TypeAlias = Literal["none", "whitespace", "newlines", "spaces"]
GapName: TypeAlias = Literal[
    "begin-system",
    "begin-user",
    "begin-picture",
    "system-user",
    "system-picture",
    "picture-picture",
    "picture-user",
    "user-system",
    "user-assistant",
    "user-user",
    "user-picture",
    "assistant-system",
    "assistant-user",
    "assistant-picture",
    "user-end",
]


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


class Gap(Spec):
    """What a prompt has between two slots: the literal text, and what it strips off its neighbours. Since 1.4.

    `whitespace` is what Python's `str.strip()` takes, `newlines` and `spaces` are U+000A and U+0020 alone.

    Attributes:
        strip_before: stripped off the end of the text in the slot before.
        strip_after: stripped off the start of the text in the slot after.
    """

    text: str = Field(max_length=MAX_GAP)
    strip_before: Strip = "none"
    strip_after: Strip = "none"


class DialogueCase(Spec):
    """The gaps of one kind of dialogue. Since 1.4.

    Attributes:
        system: whether these dialogues have a system text.
        pictures: whether any of their turns has a picture.
        gaps: slot and next slot -> what stands between them. A dialogue that needs another one is refused.
    """

    system: bool
    pictures: bool
    gaps: Mapping[GapName, Gap]


class DialogueSpec(Spec):
    """A chat template as data: the literal text between the slots of a dialogue. Since 1.4.

    The slots are `begin`, the system text, of each user turn its pictures and its text, the assistant's texts, and
    `end`, where the answer begins.

    Attributes:
        cases: by what a dialogue has; one that is not listed is refused.
        system_before: the user turn that the system text stands before.
        blank: which texts may be empty or white space alone, and whether they are then `written` like others, or (a
            system text) `left_out` as if there were none; other blank texts are refused.
    """

    cases: tuple[DialogueCase, ...] = Field(min_length=1, max_length=4)
    system_before: Literal["first", "last"] = "first"
    blank: Mapping[Role, Literal["written", "left_out"]] = {}

    @model_validator(mode="after")
    def _distinct(self) -> DialogueSpec:
        if len({(case.system, case.pictures) for case in self.cases}) != len(self.cases):
            raise ValueError("cases must differ in `system` or `pictures`")
        if late := sorted(role for role, how in self.blank.items() if how == "left_out" and role != "system"):
            raise ValueError(f"blank: only a system text can be left_out, got {late}")
        return self

    def gaps(self, *, system: bool, pictures: bool) -> Mapping[GapName, Gap] | None:
        """The gaps of such dialogues; None where they are refused."""
        matching = (case.gaps for case in self.cases if (case.system, case.pictures) == (system, pictures))
        return next(matching, None)


class PromptSpec(Spec):
    """How words and pictures become the ids of a prompt. Since 1.2.

    Exactly one of `dialogue`, `plain` and `template` is given.

    Attributes:
        dialogue: of models that were taught dialogues: the text around every part of one. Since 1.4.
        plain: of models that know no dialogue: a pattern with `{images}` and `{text}`, each once.
        template: only in 1.2 and 1.3, which have no `dialogue`: a file, the checkpoint's own Jinja program. It is
            turned into a `dialogue` by a child process when such a bundle is opened.
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

    dialogue: DialogueSpec | None = None
    plain: str | None = None
    template: str | None = None
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
        if [self.dialogue, self.plain, self.template].count(None) != 2:
            raise ValueError("exactly one of `dialogue`, `plain` and (before 1.4) `template` must be given")
        if self.plain is not None and (self.plain.count(IMAGES), self.plain.count(TEXT)) != (1, 1):
            raise ValueError(f"plain must have {IMAGES!r} and {TEXT!r} once each, got {self.plain!r}")
        return self
