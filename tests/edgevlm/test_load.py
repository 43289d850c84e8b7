"""`edgevlm.load`: a ready policy from a directory, or one typed error that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from support import tiny

import edgevlm
from edgevlm.errors import BundleError, EngineError, TamperedError
from edgevlm.options import RuntimeOptions


def test_loads_a_policy_that_acts(tmp_path: Path) -> None:
    root = tiny.mono(tmp_path / "bundle")
    with edgevlm.load(root) as policy, edgevlm.load(str(root), RuntimeOptions(intra_threads=1)) as other:
        step = tiny.observation(policy.contract, 0)
        np.testing.assert_allclose(policy.act(step).values, other.act(step).values, atol=1e-6)
        assert policy.bundle.sha256 == other.bundle.sha256
        assert other.options.intra_threads == 1


def test_refuses_a_tampered_bundle(tmp_path: Path) -> None:
    root = tiny.mono(tmp_path / "bundle")
    stage = root / "stages" / "text.onnx"
    content = stage.read_bytes()
    weights = content.rindex(b"table") + 50
    stage.write_bytes(content[:weights] + bytes([content[weights] ^ 1]) + content[weights + 1 :])
    with pytest.raises(TamperedError, match=r"text\.onnx: expected sha256"):
        edgevlm.load(root)


def test_a_form_that_the_bundle_lacks_is_named(tmp_path: Path) -> None:
    root = tiny.mono(tmp_path / "bundle")
    tiny.rewrite(root, lambda data: data["stages"]["pool"]["forms"].pop("tensorrt"))
    edgevlm.load(root, RuntimeOptions(form="cpu")).close()
    with pytest.raises(EngineError, match=r"stage 'pool'.*expected the form 'tensorrt'.*\['cpu'\]"):
        edgevlm.load(root, RuntimeOptions(form="tensorrt"))


def test_a_tokenizer_that_is_none_is_a_bundle_error(tmp_path: Path) -> None:
    root = tiny.mono(tmp_path / "bundle")
    tiny.refile(root, "tokenizer.json", b"{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        edgevlm.load(root)


@pytest.mark.parametrize("options", [{"engine": "magic"}, {"intra_threads": -1}, {"threads": 2}, {"spinning": "maybe"}])
def test_options_are_complete_and_refuse_what_they_do_not_know(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RuntimeOptions(**options)  # type: ignore[arg-type]


SCRIPT = """
import sys
from importlib.machinery import PathFinder
class Bare(PathFinder):  # an environment without any optional package
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {"onnxruntime", "openvino", "torch", "transformers", "onnx", "cv2", "mcap"}
        return None if hidden else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
import edgevlm
from edgevlm.errors import DependencyError
from edgevlm.options import RuntimeOptions
for engine in ("auto", "ort", "openvino"):
    try:
        edgevlm.load(sys.argv[1], RuntimeOptions(engine=engine))
    except DependencyError as error:
        print(error)
"""


def run(script: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_without_an_engine_it_says_which_extra_to_install(tmp_path: Path) -> None:
    lines = run(SCRIPT, str(tiny.mono(tmp_path / "bundle"))).splitlines()
    assert len(lines) == 3
    for line, extras in zip(lines, (("cpu", "openvino"), ("cpu",), ("openvino",)), strict=True):
        assert all(f"pip install '.[{extra}]'" in line for extra in extras)


def test_running_a_bundle_imports_no_training_framework(tmp_path: Path) -> None:
    script = """
import sys, edgevlm
sys.path.append(sys.argv[2])
from support import tiny
with edgevlm.load(sys.argv[1]) as policy:
    policy.warm_up()
    policy.act(tiny.observation(policy.contract, 0))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "onnx", "rclpy", "typer"}))
"""
    tests = str(Path(__file__).parents[1])
    assert run(script, str(tiny.mono(tmp_path / "bundle")), tests).strip() == "[]"
