"""A user's words and a model's: which may be asked, and how tokens become text again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgevlm.errors import InstructionError, PromptError
from edgevlm.text.streaming import StreamingDetokenizer, TokenDecoder
from edgevlm.text.tokenizer_file import is_unicode, open_tokenizer

SHOWN = 80  # characters of a text in a message
MAX_TEXT = 1 << 20  # characters of one turn: more than any model reads


class SpecialTokens:
    """One tokenizer.json, whose own padding and truncation are not used.

    Args:
        needs_text: whether a question without words is refused.

    Attributes:
        fast: the tokenizer.

    Raises:
        BundleError: the tokenizer cannot be read.
    """

    def __init__(self, tokenizer: str | os.PathLike[str], *, needs_text: bool) -> None:
        self.fast, file = open_tokenizer(tokenizer)
        self.fast.no_padding()
        self.fast.no_truncation()
        self.needs_text = needs_text
        self._special, self._pictures = special_tokens(file), tuple[str, ...]()
        self._decoder = TokenDecoder(self.fast, file)

    @property
    def knows_turns(self) -> bool:
        """Whether there can be more than one question and one answer."""
        return False

    @property
    def size(self) -> int:
        """One more than the highest id that the tokenizer may give."""
        return 1 + max(self.fast.get_vocab(with_added_tokens=True).values(), default=-1)

    @property
    def _reserved(self) -> tuple[str, ...]:
        return (*self._pictures, *self._special)

    def mark_pictures(self, image: str, image_id: int, placeholder: str) -> None:
        """What stands for a picture is no word either."""
        self._special = {**self._special, image: image_id}
        self._pictures = (placeholder, image)

    def clean_answer(self, text: str) -> str:
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
        return self._decoder.decode(ids)

    def stream(self, text: str, stops: Iterable[str]) -> StreamingDetokenizer:
        """What makes text of the tokens of an answer to `text`. Raises ContractError."""
        return StreamingDetokenizer(self._decoder, stops, self._begun(text))

    def _begun(self, text: str) -> Sequence[int]:
        """The tokens of `text` that an answer goes on from, so that it may begin with the rest of a word."""
        return ()

    def _words(self, text: str) -> Sequence[int]:
        """The tokens of `text` alone."""
        ids: list[int] = self.fast.encode(text, add_special_tokens=False).ids
        return ids

    def check(self, text: object) -> str:
        """The words of a user, if they are some, or none where none are needed.

        Raises:
            InstructionError: no text, or none that can be written.
            PromptError: too long, or with an image token or another sign of the model's among the words.
        """
        if not isinstance(text, str) or (self.needs_text and not text.strip()) or not is_unicode(text):
            raise InstructionError(f"text: expected words, got {text!r:.{SHOWN}}; ask something")
        if len(text) > MAX_TEXT:
            raise PromptError(f"text: expected at most {MAX_TEXT} characters, got {len(text)}; say it in fewer")
        ids = set(self._words(text))
        if self.needs_text and not ids:
            raise InstructionError(
                f"text: expected words, got {text!r:.{SHOWN}}, which none can be read of; ask something"
            )
        read = (token for token, number in self._special.items() if number in ids)  # written so that it becomes one
        for token in (*(token for token in self._reserved if token in text), *read):
            todo = "give pictures as `image`" if token in self._pictures else "it is a sign of the model's own"
            raise PromptError(f"text {text!r:.{SHOWN}}: expected words, got {token!r} among them; {todo}")
        return text


def special_tokens(file: Mapping[str, Any]) -> dict[str, int]:
    """The signs that only a template may write, with their ids; not the one for words that nobody knows."""
    model = file.get("model", {})
    unknown = model.get("unk_token")
    if isinstance(number := model.get("unk_id"), int):
        unknown = model["vocab"][number][0]
    added = [token for token in file.get("added_tokens", ()) if token.get("special")]
    return {token["content"]: token["id"] for token in added if token["content"] not in ("", unknown)}
