"""The names that users import: a change of them is a change of the interface, and is meant."""

from __future__ import annotations

import importlib

import pytest

import edgevlm

PUBLIC = (
    *("ActionChunk", "Answer", "Chat", "ChatSession", "Classification", "Contract", "Detections", "Detector"),
    *("EdgevlmError", "Match", "Observation", "Plan", "Policy", "Regions", "Retriever", "RuntimeOptions", "Scorer"),
    *("Scores", "Session", "Stamped", "Token"),
    *("load", "load_chat", "load_detector", "load_policy", "load_retriever", "load_scorer"),
)
PACKAGES = ("edgevlm", "edgevlm.data", "edgevlm.drivers", "edgevlm.engines", "edgevlm.tasks", "edgevlm.text")


def test_edgevlm_hands_on_these_names_and_no_others() -> None:
    assert tuple(edgevlm.__all__) == PUBLIC
    public = {name for name in vars(edgevlm) if not name.startswith("_")}
    modules = {name for name in public if isinstance(vars(edgevlm)[name], type(importlib))}
    assert public - modules == set(PUBLIC)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_every_name_that_it_lists(package: str) -> None:
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name), f"{package}.__all__ lists {name!r}, which it does not have"
