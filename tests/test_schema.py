"""docs/bundle.schema.json is what the types of edgevlm.manifest say, and docs/bundle.md names what they know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgevlm.manifest.schema import KINDS, manifest_schema

SCHEMA = Path(__file__).parents[1] / "docs/bundle.schema.json"
OPERATIONS = [
    kind["properties"]["op"]["const"]
    for kind in manifest_schema()["$defs"].values()
    if "op" in kind.get("properties", {})
]
LOOPS = sorted({loop for loops in KINDS.values() for loop in loops})


def test_the_schema_in_the_docs_is_that_of_the_types() -> None:
    text = json.dumps(manifest_schema(), indent=2, sort_keys=True) + "\n"
    assert SCHEMA.read_text() == text, f"write what manifest_schema() gives to {SCHEMA}"


@pytest.mark.parametrize("name", [*KINDS, *LOOPS, *OPERATIONS, "prompt", "question", "labels", "text", "contract"])
def test_the_docs_name_it(name: str) -> None:
    assert f"`{name}`" in SCHEMA.with_name("bundle.md").read_text()
