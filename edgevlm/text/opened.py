"""A bundle's tokenizer.json, opened by the `tokenizers` library."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from edgevlm.errors import BundleError


def open_tokenizer(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """(the tokenizer, what its file says). The file's own padding and truncation are left as they are.

    Raises:
        BundleError: the file cannot be read, or is no tokenizer.
    """
    from tokenizers import Tokenizer as Fast  # takes a while to import, and `import edgevlm` must not

    try:
        text = Path(path).read_text(encoding="utf-8")
        return Fast.from_str(text), json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: the tokenizer cannot be read ({error}); export the bundle again") from error
    except Exception as error:  # the library raises nothing narrower
        raise BundleError(f"{path}: expected a tokenizer.json, got: {error}; export the bundle again") from error


def is_unicode(text: str) -> bool:
    """Whether `text` can be written down: no lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
