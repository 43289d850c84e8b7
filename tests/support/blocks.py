"""The fenced blocks of README and docs, and the commands in them as a shell would take them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)
_FENCE = re.compile(r"^\s*```(\S*)\s*$")


class Block(NamedTuple):
    """What stands between two fences; `line` is that of the first one."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


class Command(NamedTuple):
    """One command: its words without comments, `=` settings before it, and where it stands."""

    block: Block
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.block}: {' '.join(self.words)[:60]}"


def blocks(language: str | None = None) -> list[Block]:
    """Every block of a language, or all of them."""
    return [block for page in PAGES for block in _blocks(page) if language in (None, block.language)]


def _blocks(page: str) -> Iterator[Block]:
    inside: list[str] | None = None
    begin, language = 0, ""
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        if fence := _FENCE.match(line):
            if inside is None:
                inside, begin, language = [], number, fence[1]
            else:
                yield Block(page, begin, language, "\n".join(inside))
                inside = None
        elif inside is not None:
            inside.append(line)
    assert inside is None, f"{page}:{begin}: a block without an end"


def commands() -> list[Command]:
    """Every command of the `sh` blocks; lines that end with a backslash go on, and && begins another command."""
    return [
        Command(block, words)
        for block in blocks("sh")
        for line in block.text.replace("\\\n", " ").splitlines()
        for words in _split(line)
    ]


def _split(line: str) -> Iterator[tuple[str, ...]]:
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), "&&"]:
        if word != "&&":
            words.append(word)
        elif words:
            settings = 0
            while settings < len(words) - 1 and re.fullmatch(r"[A-Z_]+=.*", words[settings]):
                settings += 1
            yield tuple(words[settings:])
            words = []
