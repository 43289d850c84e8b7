"""docs/bundle.schema.json is what the types in edgevlm/manifest.py say."""

from __future__ import annotations

import json
from pathlib import Path

from edgevlm.manifest import Manifest

SCHEMA = Path(__file__).parents[1] / "docs/bundle.schema.json"


def test_the_schema_in_the_docs_is_that_of_the_types() -> None:
    text = json.dumps(Manifest.model_json_schema(), indent=2, sort_keys=True) + "\n"
    assert SCHEMA.read_text() == text, f"write what Manifest.model_json_schema() gives to {SCHEMA}"
