"""LeRobot policy directories: the small files that LeRobot itself saved, with weights made again from their names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from support.seeded import sharpened, weights

from edgevlm.data import LogWriter
from edgevlm.manifest.contract import SECOND_NS, Contract, Observation, Stamped

GOLDEN = Path(__file__).parents[1] / "export" / "golden"
VLM = "smolvla_vlm"  # config and tokenizer of the model that all SmolVLA cases name as "vlm"
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
    if is_smolvla(case):
        tensors = sharpened(tensors)
        shutil.copytree(GOLDEN / VLM, folder / "vlm")
    for end, factor in (scaled or {}).items():
        tensors |= {name: value * np.float32(factor) for name, value in tensors.items() if name.endswith(end)}
    if old:
        for name, value in load_file(GOLDEN / case / statistics(case)).items():
            feature, _, which = name.rpartition(".")
            parts = ("unnormalize_outputs", "normalize_targets") if feature == "action" else ("normalize_inputs",)
            tensors |= {f"{part}.buffer_{feature.replace('.', '_')}.{which}": value for part in parts}
    save_file(tensors, folder / "model.safetensors")
    return folder


def is_smolvla(case: str) -> bool:
    """Whether a golden case is of the policy that takes words."""
    return case.startswith("smolvla")


def statistics(case: str) -> str:
    """The file of the way in, named by the place of its step."""
    return STATISTICS.replace("_3_", "_5_") if is_smolvla(case) else STATISTICS


def robot(case: str = "act") -> dict[str, Any]:
    """A robot file that fits a golden case, with two groups of columns."""
    return robot_of(GOLDEN / case)


def robot_of(policy: Path) -> dict[str, Any]:
    """A robot file that fits the directory of a policy, with two groups of columns."""
    config = read(policy / "config.json")
    features = config["input_features"]
    cameras = [key for key in features if "images" in key and "empty" not in key]
    words = {"instructions": ["put the red cup on the plate"]} if config["type"] == "smolvla" else {}
    return {
        **words,
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


EPISODES, LOGGED = 8, 6  # of a log, and steps of each


def write_log(path: Path, sizes: Mapping[str, tuple[int, int]], texts: Sequence[str]) -> Path:
    """Coarse pictures that drift, joints that wander, and words before each episode; `sizes` is camera -> (H, W)."""
    random = np.random.default_rng(4)
    with LogWriter(path) as log:
        for episode in range(EPISODES):
            start_ns = (1 + 10 * episode) * SECOND_NS
            log.string("/instruction", start_ns, texts[episode % len(texts)])
            blocks = {name: random.integers(0, 256, (6, 8, 3), np.uint8) for name in sizes}
            for step in range(LOGGED):
                stamp_ns = start_ns + step * SECOND_NS // 10
                joints = dict(zip(JOINTS, random.uniform(-1.5, 1.5, 5), strict=True))
                log.joints("/joint_states", stamp_ns, joints)
                for name, (height, width) in sizes.items():
                    grown = np.kron(blocks[name], np.ones((-(-height // 6), -(-width // 8), 1), np.uint8))
                    picture = np.roll(grown, 3 * step, 1)[:height, :width]
                    log.image(
                        f"/{name}/image_raw", stamp_ns, np.ascontiguousarray(picture), encoding="rgb8", frame_id="eye"
                    )
    return path


# Random layers add up what int8 costs; trained ones do less of that.
MILD = {"down_proj.weight": 0.2, "fc2.weight": 0.2, "action_time_mlp_in.weight": 0.7}
SHARP, DULL = (dict.fromkeys(("q_proj.weight", "k_proj.weight"), by) for by in (0.8, 0.6))  # how attention looks
EYES = {"top_eye": (48, 64), "wrist_eye": (40, 28)}  # of the case `smolvla`
INSTRUCTIONS = ("put the red cup on the plate", "open the left drawer")


def write_smolvla(folder: Path) -> Path:
    """`policy`, `outliers`, `robot.yaml` and `log.mcap` of the case `smolvla`."""
    write_policy(folder / "policy", "smolvla", scaled={**MILD, **SHARP})
    write_policy(folder / "outliers", "smolvla", scaled={**MILD, **DULL})
    enlarge(folder / "outliers" / "model.safetensors")
    write_robot(folder / "robot.yaml", case="smolvla")
    write_log(folder / "log.mcap", EYES, INSTRUCTIONS)
    return folder


def enlarge(path: Path, by: float = 64.0) -> None:
    """Channels `by` times as large behind the norms of a transformer's layers, and weights that undo it."""
    tensors = load_file(path)
    readers = {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
        "layer_norm1": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "layer_norm2": ("mlp.fc1",),
    }
    for norm, following in readers.items():
        for name in [name for name in tensors if name.endswith(f".{norm}.weight")]:
            layer = name.removesuffix(f"{norm}.weight")
            for kind in ("weight", "bias"):
                if f"{layer}{norm}.{kind}" in tensors:
                    tensors[f"{layer}{norm}.{kind}"][::16] *= np.float32(by)
            for reader in following:
                weight = tensors[f"{layer}{reader}.weight"]
                if weight.shape[1] == tensors[name].size:  # else it reads another's keys
                    weight[:, ::16] /= np.float32(by)
    save_file(tensors, path)


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


def answers(case: str) -> dict[str, NDArray[Any]]:
    """Inputs and what LeRobot answered: states (N, S), chunks (N, K, A), `<camera>_<step>` (H, W, 3)."""
    with np.load(GOLDEN / case / "answers.npz") as recorded:
        return dict(recorded)


def observation(contract: Contract, recorded: Mapping[str, NDArray[Any]], step: int, text: str = "") -> Observation:
    """One of the golden steps, as the robot's own cameras and joints would send it; `text` else the golden one."""
    stamp_ns = START_NS + step * PERIOD_NS
    frames = {
        camera.name: Stamped(recorded[f"{camera.name.removesuffix('_eye')}_{step}"], stamp_ns)
        for camera in contract.cameras
    }
    instruction = str(recorded["texts"][step]) if "texts" in recorded and not text else text
    return Observation(frames, Stamped(recorded["states"][step], stamp_ns), instruction)
