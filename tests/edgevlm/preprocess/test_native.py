"""The C++ core on its own, under the sanitizers, and a life without it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, timeout=600
    )


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
@pytest.mark.slow
def test_the_core_passes_its_own_tests_under_the_sanitizers(tmp_path: Path) -> None:
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert cmake, "the extra dev brings cmake"
    options = ["-DEDGEVLM_PYTHON=OFF", "-DEDGEVLM_CORE_TESTS=ON", "-DEDGEVLM_SANITIZE=ON"]
    for command in (
        [cmake, "-S", str(ROOT), "-B", str(tmp_path), *options],
        [cmake, "--build", str(tmp_path), "--parallel", "2"],
        [str(tmp_path / "edgevlm_core_tests")],
    ):
        done = run(*command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


WITHOUT = """
import logging, sys
sys.modules["edgevlm._native"] = None  # what an import of a missing module finds
logging.basicConfig(format="%(name)s %(message)s")
import numpy as np
from edgevlm.manifest.contract import CameraSpec
from edgevlm.manifest.image_ops import Normalize
from edgevlm.preprocess import Preprocessor, native_available
camera = CameraSpec(name="front", width=4, height=3, rate_hz=(1, 1))
for _ in range(3):
    preprocess = Preprocessor(camera, [Normalize(mean=(0, 0, 0), std=(1, 1, 1))])
    assert not preprocess.native and not native_available()
    assert preprocess(np.full((3, 4, 3), 255, np.uint8)).sum() == 36
"""


def test_works_without_the_native_module_and_says_once_that_it_is_slower() -> None:
    done = run(sys.executable, "-c", WITHOUT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("without its native module") == 1
