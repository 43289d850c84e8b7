"""Write tests/export/golden/act*: what LeRobot itself answers, and the small files it saves beside its weights.

Needs lerobot 0.4.4 with its draccus 0.10.0, which the tests do not: in a venv of its own, `pip install lerobot==0.4.4`,
then `PYTHONPATH=tests python tests/export/golden/make_act.py`. The weights (45 MB) are not kept: `support.seeded` makes
them again from the names and shapes in tensors.json. Commit what this writes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.act.processor_act import make_act_pre_post_processors
from support.seeded import weights

HERE = Path(__file__).parent
SMALL = {"dim_model": 32, "n_heads": 4, "dim_feedforward": 48, "n_vae_encoder_layers": 1, "latent_dim": 8}
COMMON = {"chunk_size": 8, "n_action_steps": 5, "pretrained_backbone_weights": None, "device": "cpu", **SMALL}
JOINTS, STEPS = 5, 3
# name -> (size of each camera, normalization, what differs from COMMON)
CASES: dict[str, Any] = {
    "act": ({"top": (96, 128), "wrist": (96, 128)}, "MEAN_STD", {"n_encoder_layers": 2}),
    "act_other": (
        {"front": (64, 96), "side": (96, 64)},
        "MIN_MAX",
        {
            "n_encoder_layers": 1,
            "n_decoder_layers": 2,
            "pre_norm": True,
            "use_vae": False,
            "feedforward_activation": "gelu",
            "vision_backbone": "resnet34",
        },
    ),
}


def config(cameras: dict[str, tuple[int, int]], mode: str, more: dict[str, Any]) -> ACTConfig:
    """As a training run of LeRobot would have it."""
    visual = {
        f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, *size)) for name, size in cameras.items()
    }
    state = {"observation.state": PolicyFeature(FeatureType.STATE, (JOINTS,))}
    chosen = NormalizationMode(mode)
    return ACTConfig(
        input_features={**state, **visual},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (JOINTS,))},
        normalization_mapping={"VISUAL": chosen, "STATE": chosen, "ACTION": chosen},
        **{**COMMON, **more},
    )


def statistics(keys: list[str]) -> dict[str, dict[str, torch.Tensor]]:
    """Of a data set that does not exist; no two numbers are alike."""
    random = np.random.default_rng(3)
    found = {}
    for key in keys:
        shape = (3, 1, 1) if "images" in key else (JOINTS,)
        mean = random.uniform(0.3, 0.6, shape) if "images" in key else random.uniform(-1.0, 1.0, shape)
        std = random.uniform(0.15, 0.3, shape) if "images" in key else random.uniform(0.2, 0.9, shape)
        spread = {"mean": mean, "std": std, "min": mean - 2.1 * std, "max": mean + 1.7 * std}
        if "images" in key:
            spread |= {"min": np.full(shape, 0.02), "max": np.full(shape, 0.97)}
        found[key] = {name: torch.tensor(value, dtype=torch.float32) for name, value in spread.items()}
    return found


def picture(size: tuple[int, int], seed: int) -> np.ndarray[Any, Any]:
    """Blocks of colour with a slope over them: uint8 (H, W, 3)."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 200, (size[0] // 8, size[1] // 8, 3))
    whole = np.repeat(np.repeat(blocks, 8, 0), 8, 1)
    return (whole + np.arange(size[1])[None, :, None] * 55 // size[1]).astype(np.uint8)


def write(name: str) -> None:
    """One case."""
    cameras, mode, more = CASES[name]
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    policy = ACTPolicy(config(cameras, mode, more)).eval()
    shapes = {key: list(value.shape) for key, value in policy.state_dict().items()}
    policy.load_state_dict({key: torch.from_numpy(value) for key, value in weights(shapes).items()})
    keys = [*policy.config.input_features, "action"]
    before, after = make_act_pre_post_processors(policy.config, statistics(keys))
    policy.config.save_pretrained(folder)
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    (folder / "tensors.json").write_text(json.dumps(shapes, indent=1) + "\n")
    kept: dict[str, Any] = {}
    states = np.random.default_rng(9).uniform(-1.5, 1.5, (STEPS, JOINTS)).astype(np.float32)
    chunks = []
    for step in range(STEPS):
        batch: dict[str, Any] = {"observation.state": torch.from_numpy(states[step])[None]}
        for place, (camera, size) in enumerate(cameras.items()):
            image = kept[f"{camera}_{step}"] = picture(size, 10 * step + place)
            seen = torch.from_numpy(image).type(torch.float32) / 255
            batch[f"observation.images.{camera}"] = seen.permute(2, 0, 1).contiguous()[None]
        with torch.no_grad():
            chunks.append(after(policy.predict_action_chunk(before(batch)))[0].numpy())
    np.savez_compressed(folder / "answers.npz", states=states, chunks=np.stack(chunks), **kept)


if __name__ == "__main__":
    for case in CASES:
        write(case)
