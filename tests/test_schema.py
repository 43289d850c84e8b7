"""docs/bundle.schema.json is what the types of edgevlm.manifest say, and docs/bundle.md names what they know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgevlm.manifest.schema import DRIVERS, Manifest

SCHEMA = Path(__file__).parents[1] / "docs/bundle.schema.json"
OPERATIONS = [
    kind["properties"]["op"]["const"]
    for kind in Manifest.model_json_schema()["$defs"].values()
    if "op" in kind.get("properties", {})
]
LOOPS = sorted({loop for loops in DRIVERS.values() for loop in loops})


def test_the_schema_in_the_docs_is_that_of_the_types() -> None:
    text = json.dumps(Manifest.model_json_schema(), indent=2, sort_keys=True) + "\n"
    assert SCHEMA.read_text() == text, f"write what Manifest.model_json_schema() gives to {SCHEMA}"


@pytest.mark.parametrize("name", [*DRIVERS, *LOOPS, *OPERATIONS, "prompt", "question", "labels", "text", "contract"])
def test_the_docs_name_it(name: str) -> None:
    assert f"`{name}`" in SCHEMA.with_name("bundle.md").read_text()
