"""A question as ids, where it is not read in one row with its picture: by the manifest's rules and nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache

from edgevlm.errors import PromptError
from edgevlm.manifest.text import QuestionSpec
from edgevlm.text.special_tokens import SHOWN, SpecialTokens


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
