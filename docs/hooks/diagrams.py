"""Fences named `flow` become pictures. A line is a row of boxes, `camera (30 Hz) -> mailbox -> worker`; a line of the
form `worker => gate: chunk` draws an arrow from one box to another, of any row, with a word beside it."""

from __future__ import annotations

import html
import itertools
import re
from typing import Any, NamedTuple

WIDTH, HEIGHT, GAP, ROW, CHAR, BOLD = 128, 46, 44, 96, 7, 8
FENCE = re.compile(r"^```flow\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Box(NamedTuple):
    x: int
    y: int
    width: int
    title: str
    note: str


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each fence by an inline SVG; mkdocs calls this for each page."""
    return FENCE.sub(lambda match: svg(match.group(1)), markdown)


def svg(source: str) -> str:
    """The picture of one fence. Raises ValueError where an arrow names a box that is not there."""
    boxes: dict[str, Box] = {}
    rows: list[list[str]] = []
    arrows: list[tuple[str, str, str]] = []
    for line in filter(None, map(str.strip, source.splitlines())):
        if "=>" in line:
            ends, _, word = line.partition(":")
            begin, _, end = (part.strip() for part in ends.partition("=>"))
            arrows.append((begin, end, word.strip()))
        else:
            rows.append([part.strip() for part in line.split("->")])
    for index, row in enumerate(rows):
        x = 10
        for text in row:
            title, _, note = (part.strip(" )") for part in text.partition("("))
            width = max(WIDTH, 24 + BOLD * len(title), 20 + CHAR * len(note))
            boxes[title] = Box(x, 10 + index * ROW, width, title, note)
            x += width + GAP
    parts = [_box(box) for box in boxes.values()]
    for row in rows:
        titles = [text.partition("(")[0].strip() for text in row]
        parts += [_straight(boxes[one], boxes[two]) for one, two in itertools.pairwise(titles)]
    for number, (begin, end, word) in enumerate(arrows, 1):
        if begin not in boxes or end not in boxes:
            raise ValueError(f"flow: expected an arrow between boxes of {sorted(boxes)}, got {begin!r} => {end!r}")
        parts.append(_bent(boxes[begin], boxes[end], word, number / (len(arrows) + 1)))
    width = max(box.x + box.width for box in boxes.values()) + 10
    height = len(rows) * ROW - (ROW - HEIGHT) + 20
    label = html.escape("; ".join(" to ".join(row) for row in rows))
    head = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="currentColor"/></marker></defs>'
    )
    return (
        f'<svg class="flow" role="img" aria-label="{label}" viewBox="0 0 {width} {height}" width="{width}" '
        f'style="max-width:100%;height:auto" font-family="sans-serif" font-size="13">{head}{"".join(parts)}</svg>\n'
    )


def _box(box: Box) -> str:
    middle = box.x + box.width // 2
    lines = [(box.title, 600)] + ([(box.note, 400)] if box.note else [])
    top = box.y + HEIGHT // 2 + 5 - 8 * (len(lines) - 1)
    words = "".join(
        f'<text x="{middle}" y="{top + 17 * i}" text-anchor="middle" font-weight="{weight}" fill="currentColor">'
        f"{html.escape(text)}</text>"
        for i, (text, weight) in enumerate(lines)
    )
    size = f'x="{box.x}" y="{box.y}" width="{box.width}" height="{HEIGHT}"'
    return f'<rect {size} rx="6" fill="none" stroke="currentColor"/>' + words


def _line(points: str) -> str:
    return f'<polyline points="{points}" fill="none" stroke="currentColor" marker-end="url(#tip)"/>'


def _straight(one: Box, two: Box) -> str:
    y = one.y + HEIGHT // 2
    return _line(f"{one.x + one.width},{y} {two.x},{y}")


def _bent(one: Box, two: Box, word: str, share: float) -> str:
    """An arrow that turns at `share` of the way down or up, so that no two of a picture lie on each other."""
    begin, end = one.x + one.width // 2, two.x + two.width // 2
    down = one.y < two.y
    y1, y2 = (one.y + HEIGHT, two.y) if down else (one.y, two.y + HEIGHT)
    turn = round(y1 + (y2 - y1) * share)
    line = _line(f"{begin},{y1} {begin},{turn} {end},{turn} {end},{y2}")
    return line + f'<text x="{begin + 6}" y="{turn - 4}" font-size="11" fill="currentColor">{html.escape(word)}</text>'
