"""Bundles of every format released open and answer as they did on the day they were written."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgevlm.bundle import open_bundle
from edgevlm.errors import TamperedError

HERE = Path(__file__).parent
NUMBERS = {"values", "waypoints", "confidence", "logits", "scores"}
BUNDLES = sorted(path.parent for path in HERE.glob("format_*/*/manifest.json"))


def maker(root: Path) -> ModuleType:
    """The script that made a bundle: it knows the observations of its answer."""
    path = HERE / f"make_{root.parent.name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("root", BUNDLES, ids=lambda root: f"{root.parent.name}-{root.name}")
def test_answers_as_on_the_day_it_was_written(root: Path) -> None:
    recorded: dict[str, Any] = open_bundle(root).records()["answer"]
    now = maker(root).answer(root)
    for name in NUMBERS & set(recorded):
        # Engines of another version add in another order; 1e-5 of the action's own scale is far below any effect.
        np.testing.assert_allclose(np.array(now.pop(name)), np.array(recorded.pop(name)), rtol=1e-4, atol=1e-5)
    assert now == recorded


def test_there_are_bundles_of_every_format() -> None:
    assert {root.name for root in BUNDLES if root.parent.name == "format_1_0"} == {"mono", "duo"}
    assert {root.name for root in BUNDLES if root.parent.name == "format_1_1"} == {"dual", "dual_masked"}
    assert {root.name for root in BUNDLES if root.parent.name == "format_1_2"} == {"chat", "chat_whole"}
    assert {root.name for root in BUNDLES if root.parent.name == "format_1_3"} == {
        *("cross", "denoise", "regions", "scorer", "seq2seq")
    }
    assert {root.name for root in BUNDLES if root.parent.name == "format_1_4"} == {"dialogue"}


def test_the_committed_bundles_stay_small() -> None:
    assert sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file()) < 250_000


@pytest.mark.parametrize("root", BUNDLES, ids=lambda root: f"{root.parent.name}-{root.name}")
def test_a_copy_opens_and_a_changed_copy_does_not(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    assert open_bundle(copy).sha256 == open_bundle(root).sha256
    text = (copy / "manifest.json").read_bytes()
    (copy / "manifest.json").write_bytes(text.replace(b'"tiny"', b'"tinY"'))
    with pytest.raises(TamperedError):
        open_bundle(copy)
