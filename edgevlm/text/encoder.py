"""Any text as ids and mask, by the bundle's tokenizer.json and the manifest's rule for lengths."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import InstructionError
from edgevlm.manifest.schema import TextSpec
from edgevlm.text.tokenizer_file import is_unicode, open_tokenizer

_SHOWN = 80  # characters of a text in a message


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
        padded = np.full((1, length), self._spec.pad_id, np.int64)
        padded[0, : len(ids)] = ids
        mask = np.zeros((1, length), np.float32)
        mask[0, : len(ids)] = 1.0
        padded.setflags(write=False)
        mask.setflags(write=False)
        return padded, mask
