"""A text as ids and mask, by the bundle's tokenizer.json and the manifest's rule for lengths, and nothing else.

Lower-casing, accents and white space are the tokenizer.json's own business (its normalizer); nothing is added here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import InstructionError
from edgevlm.manifest.contract import InstructionSpec
from edgevlm.manifest.text import TextSpec
from edgevlm.text.tokenizer_file import is_unicode, open_tokenizer

_SHOWN = 80  # characters of an instruction in a message


class Tokenizer:
    """One tokenizer.json of the `tokenizers` library, with the contract's length and rule for unknown words.

    Immutable; the same text gives equal arrays every time. The file's own padding and truncation are not used, save for
    the id that it pads with (0 when it names none).

    Raises:
        BundleError: the file cannot be read, or is no tokenizer.
    """

    def __init__(self, path: str | os.PathLike[str], spec: InstructionSpec) -> None:
        self._spec = spec
        self._fast, described = open_tokenizer(path)
        self._pad_id = int((self._fast.padding or {}).get("pad_id", 0))
        self._unknown_id = self._unknown(described["model"])
        self._fast.no_padding()
        self._fast.no_truncation()

    def _unknown(self, model: dict[str, Any]) -> int | None:
        if model.get("unk_id") is not None:  # Unigram
            return int(model["unk_id"])
        token = model.get("unk_token")
        return None if token is None else self._fast.token_to_id(token)

    def encode(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids int64 (1, max_tokens), mask float32 (1, max_tokens), 1 where a token is), both read-only.

        Raises:
            InstructionError: empty, longer than `max_tokens`, or words the tokenizer does not know, each named, unless
                the contract lets them through.
        """
        if not isinstance(text, str) or not _speakable(text):
            raise InstructionError(f"instruction: expected text in words, got {text!r:.{_SHOWN}}; say what to do")
        if not text.endswith(self._spec.ending):
            text += self._spec.ending
        encoding = self._fast.encode(text)
        ids, limit = encoding.ids, self._spec.max_tokens
        if not any(special == 0 for special in encoding.special_tokens_mask):
            raise InstructionError(f"instruction {text!r:.{_SHOWN}}: expected words, got none that the tokenizer keeps")
        if self._spec.unknown == "refuse" and self._unknown_id in ids:
            spans = [span for token, span in zip(ids, encoding.offsets, strict=True) if token == self._unknown_id]
            words = list(dict.fromkeys(text[start:end] for start, end in spans))
            raise InstructionError(
                f"instruction {text!r:.{_SHOWN}}: the model was never taught {words}; use words it knows"
            )
        if len(ids) > limit:
            raise InstructionError(
                f"instruction {text!r:.{_SHOWN}}: expected at most {limit} tokens, got {len(ids)}; use fewer words"
            )
        return _padded(ids, limit, self._pad_id)


class TextEncoder:
    """One tokenizer.json with the manifest's length and padding; its own padding and truncation are not used.

    Immutable; the same text gives equal arrays every time.

    Raises:
        BundleError: the file cannot be read, or is no tokenizer.
    """

    def __init__(self, path: str | os.PathLike[str], spec: TextSpec) -> None:
        self._spec = spec
        self._fast, _ = open_tokenizer(path)
        self._fast.no_padding()
        self._fast.no_truncation()

    def encode(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids int64 (1, L), mask float32 (1, L), 1 where a token is), both read-only; L as the manifest says.

        Raises:
            InstructionError: no text, nothing but white space, or longer than `max_tokens`.
        """
        if not isinstance(text, str) or not text.strip() or not is_unicode(text):
            raise InstructionError(f"text: expected words, got {text!r:.{_SHOWN}}; give a description or a label")
        ids, limit = self._fast.encode(text).ids, self._spec.max_tokens
        if len(ids) > limit:
            raise InstructionError(
                f"text {text!r:.{_SHOWN}}: expected at most {limit} tokens, got {len(ids)}; use fewer words"
            )
        length = limit if self._spec.length == "fixed" else len(ids)
        return _padded(ids, length, self._spec.pad_id)


def _padded(ids: Sequence[int], length: int, pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    padded, mask = np.full((1, length), pad_id, np.int64), np.zeros((1, length), np.float32)
    padded[0, : len(ids)] = ids
    mask[0, : len(ids)] = 1.0
    padded.setflags(write=False)
    mask.setflags(write=False)
    return padded, mask


def _speakable(text: str) -> bool:
    """Whether there is something besides white space, and all of it is valid Unicode."""
    return is_unicode(text) and bool(text.strip())
