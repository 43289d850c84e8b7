"""The tokenizer of the tabletop: one token per word, lower case, punctuation dropped apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from edgevlm_tabletop.commands import COMMANDS, Command, paraphrases, vocabulary
from edgevlm_tabletop.contract import MAX_TOKENS

PAD, UNKNOWN = "[PAD]", "[UNK]"


def build_tokenizer() -> Tokenizer:
    """WordLevel over every word of every paraphrase; [PAD] is 0, [UNK] is 1."""
    words = {word: index for index, word in enumerate((PAD, UNKNOWN, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def encode(tokenizer: Tokenizer, sentence: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """ids (L,) padded with [PAD] to the contract's length, and the mask (L,), 1 for words.

    Raises:
        ValueError: the sentence is longer than the contract allows.
    """
    ids = tokenizer.encode(sentence).ids
    if len(ids) > MAX_TOKENS:
        raise ValueError(f"instruction: expected at most {MAX_TOKENS} words, got {len(ids)}: {sentence!r}")
    padded = np.zeros(MAX_TOKENS, np.int64)
    padded[: len(ids)] = ids
    return padded, (np.arange(MAX_TOKENS) < len(ids)).astype(np.float32)


class Sentences:
    """Every training paraphrase of every command, tokenized once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._rows = [self._table(tokenizer, command) for command in COMMANDS]

    @staticmethod
    def _table(tokenizer: Tokenizer, command: Command) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows = [encode(tokenizer, sentence) for sentence in paraphrases(command, held_out=False)]
        return np.stack([ids for ids, _ in rows]), np.stack([mask for _, mask in rows])

    def draw(
        self, command: NDArray[np.int64], generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """A random paraphrase for each command (N,): ids (N, L), mask (N, L)."""
        picks = [int(generator.integers(len(self._rows[one][0]))) for one in command]
        ids = np.stack([self._rows[one][0][pick] for one, pick in zip(command, picks, strict=True)])
        mask = np.stack([self._rows[one][1][pick] for one, pick in zip(command, picks, strict=True)])
        return ids, mask
