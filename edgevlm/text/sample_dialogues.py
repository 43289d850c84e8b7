"""Generated dialogues that a chat template is judged on: seeded, and none of them a probe that it was derived from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from edgevlm.text.chat_text import Turn

TEXTS = (
    *("What is on the table?", "a", "No.", "  two leading spaces", "trailing newline\n", "\n\n both \t ", "0", "None"),
    *("ünïcödé ✓ 漢字 🤖", "e\u0301 combined, \u00a0no-break\u00a0", "line one\nline two\r\nline three", "\u200bzero"),
    *("{{ messages }} {% if x %} {# c #}", "\"quotes\" 'and' \\ back\\n", "<b>bold</b> &amp; &lt;", "[INST] x [/INST]"),
    *("User: Assistant: system", "user\n", "true", "[]", "{'type': 'image'}", "%s {0} $x", "a  b   c", "Ⅷ ß İ ǆ"),
    *("x" * 700, "What? " * 40, "?", ".", "\u3000wide\u3000", "\x0b\x0cform feed\x1c", "-1", "1e9", "end."),
)
LONGEST = 9  # user turns of a generated dialogue
_MOST_PICTURES = 5


def sample_dialogues(seed: int, count: int, literals: Sequence[str] = ()) -> list[tuple[Turn, ...]]:
    """`count` different dialogues; a third of their texts holds one of `literals`, a template's own words."""
    rng, distinct = random.Random(seed), dict[tuple[Turn, ...], None]()
    while len(distinct) < count:
        distinct.setdefault(_dialogue(rng, literals))
    return list(distinct)


def literal_dialogues(literals: Sequence[str]) -> Iterator[tuple[Turn, ...]]:
    """For each literal of a template, it alone and among other words as the text of every role."""
    for literal in literals:
        for text in (literal, f"see {literal} here"):
            spoken = (Turn("user", text, 1), Turn("assistant", text), Turn("user", text))
            yield spoken
            yield (Turn("system", text), *spoken)


def messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The dialogue as a chat template takes it."""
    return [
        {
            "role": turn.role,
            "content": [*({"type": "image"} for _ in range(turn.pictures)), {"type": "text", "text": turn.text}],
        }
        for turn in turns
    ]


def _dialogue(rng: random.Random, literals: Sequence[str]) -> tuple[Turn, ...]:
    turns = [Turn("system", _text(rng, literals))] if rng.random() < 0.4 else []
    shows = rng.random() < 0.7
    for place in range(users := rng.choice((1, 1, 2, 2, 3, 4, LONGEST))):
        pictures = rng.choice((0, 0, 1, 1, 2, _MOST_PICTURES)) if shows else 0
        turns.append(Turn("user", _text(rng, literals), pictures))
        if place < users - 1 and rng.random() < 0.9:
            turns.append(Turn("assistant", _text(rng, literals)))
    return tuple(turns)


def _text(rng: random.Random, literals: Sequence[str]) -> str:
    chance = rng.random()
    if chance < 0.06:
        return rng.choice(("", " ", "\n", " \n\u3000"))
    text = rng.choice(TEXTS)
    if literals and chance < 0.4:
        text = rng.choice((f"{{}} {text}", f"{text} {{}}", f"{text}{{}}{text}", "{}")).replace(
            "{}", rng.choice(literals), 1
        )
    elif chance < 0.6:
        text = "".join(chr(rng.choice((rng.randrange(32, 127), rng.randrange(160, 0x3000)))) for _ in range(12))
    return text
