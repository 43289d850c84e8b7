"""A question as ids, where it is not read in one row with its picture: by the manifest's rules and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import takewhile

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

    def answering(self, text: str) -> Callable[[Sequence[int]], str]:
        """What makes text of an answer's tokens; of one that goes on from `text`, what is to stand behind it.

        That may be the rest of a word: by themselves, such tokens say `##board`. A new word begins with its space.
        """
        if self.encoded:
            return self.decode
        begun = self._own(text)
        before = self.decode(begun)

        def decode(ids: Sequence[int]) -> str:
            text = self.decode((*begun, *ids))
            # Usually all of `before`; less where a tokenizer takes spaces away once the next word is there.
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, text, strict=False)))
            return text[same:]

        return decode

    def _own(self, text: str) -> tuple[int, ...]:
        return tuple(self.fast.encode(text, add_special_tokens=self._spec.special_tokens).ids)
