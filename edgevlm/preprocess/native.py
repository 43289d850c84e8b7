"""The native module, where it was built."""

from __future__ import annotations

import importlib
import logging
from functools import lru_cache
from typing import Any

_log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def native_module() -> Any:
    """`edgevlm._native`, or None with one log line that says what its absence costs."""
    try:
        return importlib.import_module("edgevlm._native")
    except ImportError as error:
        _log.warning(
            "edgevlm was installed without its native module (%s): images are prepared in NumPy, with the same bytes "
            "but some twenty times slower; install a C++ compiler and reinstall edgevlm to get it",
            error,
        )
        return None


def native_available() -> bool:
    """Whether the native module can be used here."""
    return native_module() is not None
