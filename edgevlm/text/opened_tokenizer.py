"""A bundle's tokenizer.json, opened by the `tokenizers` library."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from edgevlm.bounded import MB, read_bounded
from edgevlm.errors import BundleError
from edgevlm.text.tokenizer_file import check_tokenizer

TOKENIZER_BYTES = 256 * MB


def open_tokenizer(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """(the tokenizer, what its file says). The file's own padding and truncation are left as they are.

    Raises:
        BundleError: the file cannot be read, is no tokenizer, or has parts that `check_tokenizer` refuses.
    """
    from tokenizers import Tokenizer as Fast  # takes a while to import, and `import edgevlm` must not

    try:
        text = read_bounded(Path(path).resolve(), TOKENIZER_BYTES).decode("utf-8")
        described = json.loads(text)
    except OSError as error:
        raise BundleError(f"{path}: the tokenizer cannot be read ({error}); export the bundle again") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: expected a tokenizer.json, got: {error}; export the bundle again") from error
    if not isinstance(described, dict):
        raise BundleError(
            f"{path}: expected a tokenizer.json, got a {type(described).__name__}; export the bundle again"
        )
    check_tokenizer(described, str(path))
    try:
        return Fast.from_str(text), described
    except Exception as error:  # the library raises nothing narrower
        raise BundleError(f"{path}: expected a tokenizer.json, got: {error}; export the bundle again") from error


def is_unicode(text: str) -> bool:
    """Whether `text` can be written down: no lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
