"""The rules of the house, as tests: what the runtime may know and import, and how large a piece of code may grow."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib

import edgevlm

ROOT = Path(__file__).parents[1]
TREES = ("edgevlm", "export", "calibration", "examples", "benchmarks", "ros2_ws")
ROBOTS_AND_FAMILIES = (
    *("tabletop", "puck", "drawer", "sawyer", "metaworld", "panda", "franka"),
    *("film_policy", "siglip", "llava", "smolvlm", "paligemma", "openvla", "smolvla", "pi0", "lerobot"),
    *("blip", "owlvit", "owlv2", "visualbert", "visual_bert"),
)
HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "rclpy", "cv2")
IMPORT_LIMIT_S = 0.5
MAX_FILE_LINES, MAX_FUNCTION_LINES = 600, 50


def sources(*trees: str) -> Iterator[Path]:
    for tree in trees:
        yield from sorted(path for path in (ROOT / tree).rglob("*.py") if "__pycache__" not in path.parts)


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def test_import_edgevlm_is_quick() -> None:
    # Time on a processor, and the best of three: what else the machine does is no fault of an import.
    code = "import time; begin = time.process_time(); import edgevlm; print(time.process_time() - begin)"
    best_s = min(float(python(code)) for _ in range(3))
    assert best_s < IMPORT_LIMIT_S


def test_import_edgevlm_pulls_in_nothing_heavy() -> None:
    loaded = python("import sys, edgevlm; print(*sorted({name.partition('.')[0] for name in sys.modules}))").split()
    assert "numpy" in loaded
    assert not set(HEAVY) & set(loaded)


def test_the_runtime_knows_no_robot_and_no_model_family() -> None:
    word = re.compile(rf"(?<![a-z])({'|'.join(ROBOTS_AND_FAMILIES)})s?(?![a-z0-9])", re.IGNORECASE)
    files = [*sources("edgevlm"), *sorted((ROOT / "edgevlm/csrc").iterdir())]
    result = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if word.search(line)
    ]
    assert not result, "\n".join(result)


def test_files_and_functions_stay_small() -> None:
    large = []
    for path in sources(*TREES):
        text = path.read_text()
        if (lines := text.count("\n")) > MAX_FILE_LINES:
            large.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (length := (node.end_lineno or 0) - node.lineno + 1) > (
                MAX_FUNCTION_LINES
            ):
                large.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines")
    assert not large, "\n".join(large)


def test_the_version_is_written_once() -> None:
    assert pyproject()["project"]["version"] == edgevlm.__version__


def test_the_floor_job_runs_the_lower_bounds_that_are_promised() -> None:
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    promised = dict(
        requirement.split(">=")
        for requirement in sum((extras[extra] for extra in ("cpu", "vision", "chat", "bags")), project["dependencies"])
    )
    lines = (ROOT / ".ci/floor-constraints.txt").read_text().splitlines()
    run = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert set(run) == set(promised)
    for name, bound in promised.items():
        assert run[name].startswith(bound), f"{name}: promised from {bound} on, run with {run[name]}"


def pyproject() -> dict[str, dict[str, dict[str, list[str]]]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


PATHS = {
    "edgevlm": "",
    "edgevlm_export": "export",
    "edgevlm_calibration": "calibration",
    "edgevlm_ros": "ros2_ws/src/edgevlm_ros",
    "edgevlm_tabletop": "examples/tabletop",
}

NODES = "ros2_ws/src/edgevlm_ros/edgevlm_ros"


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """import-linter over the packages under `root`, whatever is installed here."""
    places = [str(root / folder) for folder in PATHS.values()] + [sysconfig.get_path("purelib")]
    command = [
        sys.executable,
        "-S",
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--no-cache",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    return subprocess.run(command, check=False, cwd=root, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages' Python sources and the contracts, to be broken."""
    for package, folder in PATHS.items():
        shutil.copytree(
            ROOT / folder / package,
            tmp_path / folder / package,
            ignore=shutil.ignore_patterns("__pycache__", "csrc", "*.so"),
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_layers_hold(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("place", "line", "contract"),
    [
        ("edgevlm/manifest/contract.py", "import edgevlm.cli", "Imports of the runtime run one way"),
        ("edgevlm/preprocess/numpy_reference.py", "import edgevlm.data", "Imports of the runtime run one way"),
        ("edgevlm/errors.py", "import edgevlm_export", "The tools stand on the runtime"),
        ("calibration/edgevlm_calibration/__init__.py", "import edgevlm_export", "The tools stand on the runtime"),
        ("edgevlm/load.py", "def later() -> None:\n    import torch", "The runtime needs no training framework"),
        ("edgevlm/unplaced.py", "", "Imports of the runtime run one way"),
        ("edgevlm/manifest/contract.py", "import edgevlm.manifest.schema", "A manifest is made of layers"),
        ("edgevlm/gate/limits.py", "import edgevlm.loop.mailbox", "The loop and the gate know nothing of each other"),
        ("export/edgevlm_export/hub.py", "import edgevlm_export.exporter", "An export is made of layers"),
        (
            "calibration/edgevlm_calibration/table.py",
            "import edgevlm_calibration.chat",
            "A calibration is made of layers",
        ),
        (f"{NODES}/stamps.py", "import edgevlm_ros.policy_node", "The ROS nodes are made of layers"),
        (f"{NODES}/command_gate.py", "import edgevlm.data.recording", "A live node reads no recordings"),
    ],
)
def test_a_broken_layer_is_detected(copy: Path, place: str, line: str, contract: str) -> None:
    with (copy / place).open("a") as stream:
        stream.write(f"\n{line}\n")
    done = lint_imports(copy)
    assert done.returncode != 0
    assert re.search(rf"{contract}.* BROKEN", done.stdout), done.stdout + done.stderr
