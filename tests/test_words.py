"""Identifiers use the field's nouns. Narrative words may only become fewer; the goal is a share of 0.7 %."""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
TREES = ("edgevlm", "export", "calibration", "examples", "benchmarks", "ros2_ws", "tests", "docs")
NARRATIVE = {"found", "wanted", "seen", "given", "said", "made", "told", "whole", "kept", "shown", "beside"}
LIMITS = {"edgevlm": 0.006, "calibration": 0.007, "export": 0.021, "ros2_ws": 0.004, "tests": 0.013}  # lower them


def narrative(name: str) -> bool:
    return bool(NARRATIVE & set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")))


def count(path: Path) -> tuple[int, int]:
    """(narrative uses, all uses) of identifiers in a file."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    names = [each.string for each in tokens if each.type == tokenize.NAME and not keyword.iskeyword(each.string)]
    return sum(map(narrative, names)), len(names)


def test_narrative_words_become_fewer() -> None:
    faults = []
    for tree in TREES:
        files = [path for path in sorted((ROOT / tree).rglob("*.py")) if "__pycache__" not in path.parts]
        counts = {path.relative_to(ROOT): count(path) for path in files}
        share = sum(uses for uses, _ in counts.values()) / sum(names for _, names in counts.values())
        if share > LIMITS.get(tree, 0.02):
            worst = Counter({str(path): uses for path, (uses, _) in counts.items()}).most_common(5)
            faults.append(f"{tree}: expected at most {LIMITS.get(tree, 0.02):.1%}, got {share:.2%}; most in {worst}")
    assert not faults, "\n".join(faults)


def test_the_count_knows_a_narrative_name() -> None:
    assert narrative("found") and narrative("_seen_alone") and narrative("WriteWhole") and not narrative("foundation")
