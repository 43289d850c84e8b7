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
# What `pip install '.[cpu,vision]'` brings, as far as loading a bundle imports it.
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

DETECT = """
import importlib.util, json, sys
import edgevlm
hidden = [name for name in ("torch", "transformers", "onnx", "PIL", "scipy") if importlib.util.find_spec(name)]
with edgevlm.load(sys.argv[1]) as detector:
    found = detector.detect(sys.argv[2], ["a photo of a cat", "a rocket"], threshold=0.3)
told = {"hidden": hidden, "labels": found.labels, "boxes": found.boxes.tolist(), "file": edgevlm.__file__}
print(json.dumps(told))
"""

ASK = """
import importlib.util, json, sys
import edgevlm
hidden = [name for name in ("torch", "transformers", "onnx", "PIL", "jinja2") if importlib.util.find_spec(name)]
with edgevlm.load(sys.argv[1]) as chat:
    said = chat.ask(sys.argv[2], "what is it?", max_new_tokens=8)
print(json.dumps({"hidden": hidden, "text": said.text, "ids": said.token_ids, "file": edgevlm.__file__}))
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


def test_a_bundle_that_smooths_its_pictures_detects_without_torch_and_scipy(
    clean_python: Path, owl_bundle: Callable[[str, str], tuple[Path, ExportReport]]
) -> None:
    bundle = owl_bundle("owlv2", "fp32")[0]
    picture = next(path for path in hub.photographs() if path.name == "chelsea.png")
    command = [clean_python, "-I", "-c", DETECT, bundle, picture]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["hidden"] == [] and str(clean_python.parents[1]) in answer["file"] != sys.executable
    with edgevlm.load_detector(bundle) as detector:
        want = detector.detect(picture, ["a photo of a cat", "a rocket"], threshold=0.3)
    assert answer["labels"] == list(want.labels) and len(want.labels) > 3
    np.testing.assert_allclose(answer["boxes"], want.boxes, atol=1e-3)


def test_a_bundle_that_encodes_questions_answers_without_torch_and_jinja(
    clean_python: Path, chat_bundle: Callable[[str, str], tuple[Path, ExportReport]]
) -> None:
    bundle = chat_bundle("blip_vqa", "fp32")[0]
    picture = next(path for path in hub.photographs() if path.name == "chelsea.png")
    command = [clean_python, "-I", "-c", ASK, bundle, picture]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["hidden"] == [] and str(clean_python.parents[1]) in answer["file"] != sys.executable
    with edgevlm.load_chat(bundle) as chat:
        want = chat.ask(picture, "what is it?", max_new_tokens=8)
    assert (answer["text"], tuple(answer["ids"])) == (want.text, want.token_ids) and len(want.token_ids) > 2
