"""Identifiers use the field's nouns. Narrative words may only become fewer."""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
TREES = ("edgevlm", "export", "calibration", "examples", "benchmarks", "ros2_ws", "tests", "docs")
NARRATIVE = {"found", "wanted", "seen", "given", "said", "made", "told", "whole", "kept", "shown", "beside"}
LIMITS = {  # of uses in a tree; lower them
    "edgevlm": 0.0035,
    "export": 0.0178,
    "calibration": 0.001,
    "examples": 0.001,
    "benchmarks": 0.001,
    "ros2_ws": 0.002,
    "tests": 0.002,
    "docs": 0.001,
}
OVERALL = 0.0042


def narrative(name: str) -> bool:
    return bool(NARRATIVE & set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")))


def count(path: Path) -> tuple[int, int]:
    """(narrative uses, all uses) of identifiers in a file."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    names = [each.string for each in tokens if each.type == tokenize.NAME and not keyword.iskeyword(each.string)]
    return sum(map(narrative, names)), len(names)


def total(counts: Iterable[tuple[int, int]]) -> float:
    """The share of narrative uses in several files."""
    uses, names = map(sum, zip(*counts, strict=True))
    return uses / names


def test_narrative_words_become_fewer() -> None:
    faults, overall = [], []
    for tree in TREES:
        files = [path for path in sorted((ROOT / tree).rglob("*.py")) if "__pycache__" not in path.parts]
        counts = {str(path.relative_to(ROOT)): count(path) for path in files}
        overall += counts.values()
        if (share := total(counts.values())) > LIMITS[tree]:
            worst = Counter({path: uses for path, (uses, _) in counts.items()}).most_common(5)
            faults.append(f"{tree}: expected at most {LIMITS[tree]:.2%}, got {share:.2%}; most in {worst}")
    if (share := total(overall)) > OVERALL:
        faults.append(f"all trees: expected at most {OVERALL:.2%}, got {share:.2%}")
    assert not faults, "\n".join(faults)


def test_the_count_knows_a_narrative_name() -> None:
    assert narrative("found") and narrative("_seen_alone") and narrative("WriteWhole") and not narrative("foundation")
