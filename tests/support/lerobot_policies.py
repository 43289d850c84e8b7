"""LeRobot policy directories: the small files that LeRobot itself saved, with weights made again from their names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from support.seeded import weights

from edgevlm.contract import Contract, Observation, Stamped

GOLDEN = Path(__file__).parents[1] / "export" / "golden"
JOINTS = ("shoulder", "elbow", "wrist", "roll", "grip")
STATISTICS = "policy_preprocessor_step_3_normalizer_processor.safetensors"
START_NS, PERIOD_NS = 1_000_000_000, 100_000_000


def write_policy(
    folder: Path, case: str = "act", *, old: bool = False, scaled: Mapping[str, float] | None = None
) -> Path:
    """The directory of a golden case; `old` as LeRobot wrote it before there were processor files.

    Args:
        scaled: end of a tensor's name -> what it is multiplied by, for another model of the same shapes.
    """
    folder.mkdir(parents=True)
    for path in (GOLDEN / case).iterdir():
        if path.name not in ("tensors.json", "answers.npz") and not (old and path.name.startswith("policy_")):
            shutil.copyfile(path, folder / path.name)
    tensors = weights(json.loads((GOLDEN / case / "tensors.json").read_text()))
    for end, factor in (scaled or {}).items():
        tensors |= {name: value * np.float32(factor) for name, value in tensors.items() if name.endswith(end)}
    if old:
        for name, value in load_file(GOLDEN / case / STATISTICS).items():
            feature, _, which = name.rpartition(".")
            parts = ("unnormalize_outputs", "normalize_targets") if feature == "action" else ("normalize_inputs",)
            tensors |= {f"{part}.buffer_{feature.replace('.', '_')}.{which}": value for part in parts}
    save_file(tensors, folder / "model.safetensors")
    return folder


def robot(case: str = "act") -> dict[str, Any]:
    """A robot file that fits a golden case, with two groups of columns."""
    cameras = [key for key in read(GOLDEN / case / "config.json")["input_features"] if "images" in key]
    return {
        "cameras": {
            f"{key.rpartition('.')[2]}_eye": {"feature": key, "rate_hz": [10.0, 30.0], "frame_id": "eye"}
            for key in reversed(cameras)  # the order of the file is not that of the model
        },
        "state": {"names": list(JOINTS), "units": ["rad"] * 4 + ["1"]},
        "action": {
            "step_s": 0.1,
            "groups": [
                {
                    "kind": "joint_position",
                    "names": list(JOINTS[:4]),
                    "units": ["rad"] * 4,
                    "lower": [-3.0] * 4,
                    "upper": [3.0] * 4,
                },
                {"kind": "gripper", "names": ["grip"], "units": ["1"], "lower": [-3.0], "upper": [3.0]},
            ],
        },
    }


def write_robot(path: Path, content: Mapping[str, Any] | None = None, case: str = "act") -> Path:
    """A robot file on disk."""
    path.write_text(yaml.safe_dump(dict(content or robot(case))))
    return path


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


def answers(case: str) -> dict[str, NDArray[Any]]:
    """Inputs and what LeRobot answered: states (N, S), chunks (N, K, A), `<camera>_<step>` (H, W, 3)."""
    with np.load(GOLDEN / case / "answers.npz") as kept:
        return dict(kept)


def observation(contract: Contract, kept: Mapping[str, NDArray[Any]], step: int, text: str = "") -> Observation:
    """One of the golden steps, as the robot's own cameras and joints would send it."""
    stamp_ns = START_NS + step * PERIOD_NS
    frames = {
        camera.name: Stamped(kept[f"{camera.name.removesuffix('_eye')}_{step}"], stamp_ns)
        for camera in contract.cameras
    }
    return Observation(frames, Stamped(kept["states"][step], stamp_ns), text)
