"""LeRobot's own chunks against those of a bundle in ONNX Runtime; LeRobot runs in an environment of its own.

`make lerobot` makes that environment: LeRobot asks for Python 3.12 and older releases of torch and transformers than
the export, so nothing here imports it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support import lerobot_policies as policies

import edgevlm
from edgevlm.manifest.contract import Observation, Stamped
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Policy

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-lerobot"
WRITE = ROOT / "tests" / "export" / "lerobot" / "write.py"
TOLERANCE = 1e-4  # of the largest number of the chunk
CONTROL = 100  # a wrong input moves the chunk by this many tolerances
LIMIT_S = 600
OPTIONS = RuntimeOptions(intra_threads=1)
Arrays = Mapping[str, NDArray[Any]]


def installed() -> bool:
    """Whether LeRobot can be run here."""
    return (ENVIRONMENT / ".installed").is_file()


def write(folder: Path, names: Sequence[str] = ()) -> None:
    """Policies that LeRobot saves, with its answers, in `folder`; all of them without names."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    command = [str(ENVIRONMENT / "bin" / "python"), str(WRITE), str(folder), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    if done.returncode != 0:
        raise RuntimeError(f"{WRITE.name}: expected exit code 0, got {done.returncode}: {done.stderr[-2000:]}")


def answers(policy: Path) -> dict[str, NDArray[Any]]:
    """Observations and LeRobot's chunks of one of those policies."""
    with np.load(policy / "answers.npz") as arrays:
        return dict(arrays)


def off(chunk: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest difference, of the largest number."""
    return float(np.abs(chunk - expected).max() / np.abs(expected).max())


def measure(policy: Path, bundle: Path) -> dict[str, Any]:
    """`error` over all observations, and by how much each control moves the first chunk; of the largest number."""
    arrays = answers(policy)
    with edgevlm.load(bundle, OPTIONS) as opened:
        assert isinstance(opened, Policy)
        session = opened.session()
        steps = [policies.observation(opened.contract, arrays, step) for step in range(len(arrays["chunks"]))]
        chunks = [session.act(one).values for one in steps]
        moved = {
            name: off(opened.session().act(wrong).values, arrays["chunks"][0])
            for name, wrong in wrong_inputs(steps[0], steps[1]).items()
        }
        if "texts" in arrays:
            session.reset()
            moved["noise of the second act"] = off([session.act(steps[0]).values for _ in range(2)][1], chunks[0])
    if "chunks_listed" in arrays:
        moved["all features normalized"] = off(chunks[0], arrays["chunks_listed"][0])
    errors = [off(chunk, expected) for chunk, expected in zip(chunks, arrays["chunks"], strict=True)]
    return {"error": max(errors), "controls": moved}


def wrong_inputs(one: Observation, other: Observation) -> dict[str, Observation]:
    """The first observation with one thing of the second in it."""
    wrong = {}
    for name, frame in one.frames.items():
        swapped = {**one.frames, name: Stamped(other.frames[name].value, frame.stamp_ns)}
        wrong[f"picture of {name}"] = replace(one, frames=swapped)
    if one.state is not None and other.state is not None:
        wrong["state"] = replace(one, state=Stamped(other.state.value, one.state.stamp_ns))
    if one.instruction != other.instruction:
        wrong["words"] = replace(one, instruction=other.instruction)
    return wrong
