"""What a chat template's source says besides what it writes: its literal texts, and what its branches depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MOST_LITERALS = 120
LONGEST_LITERAL = 200
_GIVEN = frozenset(("messages", "add_generation_prompt", "raise_exception", "namespace", "range", "dict"))


def literals(jinja: Any, tree: Any, reserved: Sequence[str]) -> list[str]:
    """The texts in a template that a user may say as well, without those with one of `reserved`, which nobody may."""
    texts = [node.data for node in tree.find_all(jinja.nodes.TemplateData)]
    texts += [node.value for node in tree.find_all(jinja.nodes.Const) if isinstance(node.value, str)]
    stripped = dict.fromkeys(form for text in texts for form in (text, text.strip()))
    usable = (
        text
        for text in stripped
        if text.strip() and len(text) <= LONGEST_LITERAL and not any(one in text for one in reserved if one)
    )
    return sorted(usable, key=len)[:MOST_LITERALS]


def frozen(jinja: Any, tree: Any, variables: Mapping[str, str]) -> list[str]:
    """The names that a template asks for and is not given: tools, dates, switches. Its branches on them are frozen."""
    asked: set[str] = jinja.meta.find_undeclared_variables(tree)
    return sorted(asked - _GIVEN - set(variables))
