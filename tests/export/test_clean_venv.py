"""An exported CLIP bundle answers in an environment that has never heard of torch, transformers or onnx."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import hub

import edgevlm
from edgevlm_export.report import ExportReport

ROOT = Path(__file__).parents[2]
# What `pip install 'edgevlm[cpu,vision]'` brings, as far as loading a bundle imports it.
NEEDED = (
    *("numpy", "numpy.libs", "pydantic", "pydantic_core", "annotated_types", "typing_extensions.py"),
    *("typing_inspection", "tokenizers", "onnxruntime", "flatbuffers", "google", "packaging", "cv2"),
    *("opencv_python_headless.libs", "opencv_python_headless.dylibs"),
)
SCRIPT = """
import importlib.util, json, sys
import edgevlm
hidden = [name for name in ("torch", "transformers", "onnx", "PIL", "safetensors") if importlib.util.find_spec(name)]
with edgevlm.load(sys.argv[1]) as retriever:
    found = retriever.classify(sys.argv[2], ["a photo of a cat", "a rocket"])
print(json.dumps({"hidden": hidden, "best": found.best, "scores": found.scores.tolist(), "file": edgevlm.__file__}))
"""


@pytest.fixture
def clean_python(tmp_path: Path) -> Path:
    """A new environment with links to the packages that the runtime needs, and the runtime alone."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    installed = Path(sysconfig.get_path("purelib"))
    for name in NEEDED:
        if (installed / name).exists():
            (site / name).symlink_to(installed / name)
    (site / "edgevlm").symlink_to(ROOT / "edgevlm")
    return tmp_path / "venv" / "bin" / "python"


def test_a_clip_bundle_classifies_without_torch_and_transformers(
    clean_python: Path, traced: Callable[..., ExportReport], tmp_path: Path
) -> None:
    traced(hub.clip(tmp_path / "checkpoint"), tmp_path / "bundle")
    picture = next(path for path in hub.photographs() if path.name == "chelsea.png")
    command = [clean_python, "-I", "-c", SCRIPT, tmp_path / "bundle", picture]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["hidden"] == [] and str(clean_python.parents[1]) in answer["file"] != sys.executable
    with edgevlm.load_retriever(tmp_path / "bundle") as retriever:
        want = retriever.classify(picture, ["a photo of a cat", "a rocket"])
    assert answer["best"] == want.best
    np.testing.assert_allclose(answer["scores"], want.scores, atol=1e-6)
