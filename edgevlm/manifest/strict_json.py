"""JSON read more strictly than the standard library and pydantic do: of manifest.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from edgevlm.errors import CONTROL_CHARACTERS, BundleError


def json_object(text: str | bytes) -> dict[str, Any]:
    """The object that `text` is, with the strictness that pydantic lacks: no NaN, no key twice, no lone surrogates."""
    try:
        text = text.decode() if isinstance(text, bytes) else text  # UTF-8 alone
        data = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_distinct)
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json: expected JSON, got an error at {error}; export the bundle again") from error
    if not isinstance(data, dict):
        raise BundleError(f"manifest.json: expected an object, got {type(data).__name__}; export the bundle again")
    return data


def check_characters(value: Any) -> None:
    """No text may have what a terminal obeys: names and paths end up in tables and messages. Raises BundleError."""
    if isinstance(value, str):
        if obeyed := (set(value) & CONTROL_CHARACTERS) - {"\n", "\t", "\r"}:
            raise BundleError(
                f"manifest.json: expected texts that can be shown, got the control characters {sorted(obeyed)!a} in "
                f"{value!a:.80}; do not use this bundle"
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            check_characters(key)
            check_characters(item)
    elif isinstance(value, list):
        for item in value:
            check_characters(item)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name}, which is no JSON number")


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError(f"a key that comes twice among {[key for key, _ in pairs][:20]}")
    return data
