"""What LeRobot itself saves and answers: small policies with seeded weights, in a folder for each.

    PYTHONPATH=tests .venv-lerobot/bin/python tests/export/lerobot/write.py FOLDER [NAME ...]   (make lerobot)
    PYTHONPATH=tests .venv-lerobot/bin/python tests/export/lerobot/write.py tests/export/golden --golden

Each policy and both its processors are saved and read again by LeRobot, in float32, before they answer. `--golden`
leaves out the weights (45 MB for ACT): `support.seeded` makes them again from the names and shapes in tensors.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1")

import numpy as np
import policies
import torch
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from packaging.requirements import Requirement
from support.lerobot_setups import GOLDEN, SETUPS, STEPS, Setup

VLM = "smolvla_vlm"  # in the golden folder: config and tokenizer that all cases have
VLM_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
NORMALIZER = "normalizer_processor"
PACKAGES = ("lerobot", "torch", "torchvision", "transformers", "tokenizers", "huggingface_hub", "numpy", "safetensors")


def save(folder: Path, setup: Setup, policy: Any) -> np.ndarray[Any, Any] | None:
    """All files; what the policy answers with all features listed, where this one lists a part of them."""
    before, after = make_pre_post_processors(policy.config, dataset_stats=policies.statistics(setup))
    policy.save_pretrained(folder)
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    if not setup.edited:
        return None
    everything = answers(folder, setup)["chunks"]
    settings = json.loads((folder / "policy_preprocessor.json").read_text())
    (step,) = (one["config"] for one in settings["steps"] if one["registry_name"] == NORMALIZER)
    changed: dict[str, Any] = {"features": {k: v for k, v in step["features"].items() if k not in setup.unlisted}}
    if setup.chosen is not None:
        changed["normalize_observation_keys"] = list(setup.chosen)
    partly, _ = make_pre_post_processors(
        policy.config, pretrained_path=str(folder), preprocessor_overrides={NORMALIZER: changed}
    )
    partly.save_pretrained(folder)
    return everything if setup.partly else None


def answers(folder: Path, setup: Setup) -> dict[str, np.ndarray[Any, Any]]:
    """Observations, and what LeRobot answers from the files of a folder."""
    policy = get_policy_class(setup.type).from_pretrained(folder).float().eval()
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(folder))
    for name, value in setup.older.items():
        setattr(policy.config, name, value)
    arrays = policies.observations(setup, STEPS)
    chunks = [policies.chunk(policy, before, after, arrays, step) for step in range(STEPS)]
    return {**arrays, "chunks": np.stack(chunks)}


def write(folder: Path, name: str, golden: bool) -> None:
    """One policy; the working directory has the folder `vlm`."""
    setup = SETUPS[name]
    shutil.rmtree(folder, ignore_errors=True)
    policy, shapes = policies.build(setup)
    everything = save(folder, setup, policy)
    arrays = answers(folder, setup)
    if everything is not None:
        arrays["chunks_listed"] = everything
    if setup.older:
        config = folder / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **setup.older}, indent=4))
    np.savez_compressed(folder / "answers.npz", **arrays)
    (folder / "tensors.json").write_text(policies.shapes_json(shapes))
    if golden:
        (folder / "model.safetensors").unlink()
    elif setup.type == "smolvla":
        copy_vlm(folder / "vlm")


def copy_vlm(folder: Path) -> None:
    """The small files of the vision-language model."""
    folder.mkdir(exist_ok=True)
    for name in VLM_FILES:
        shutil.copyfile(Path("vlm") / name, folder / name)


def versions() -> dict[str, Any]:
    """What is installed here, and what of it LeRobot's own metadata does not admit."""
    outside = []
    for one in map(Requirement, requires("lerobot") or ()):
        if one.marker is not None and not one.marker.evaluate({"extra": "smolvla"}):
            continue
        try:
            if not one.specifier.contains(version(one.name), prereleases=True):
                outside.append(f"{one.name} {version(one.name)}, not {one.specifier}")
        except PackageNotFoundError:
            outside.append(f"{one.name} absent")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "outside_lerobots_metadata": outside,
    }


def main() -> None:
    """Write the policies of the names, or all, and versions.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SETUPS)}")
    parser.add_argument("--golden", action="store_true", help="the golden ones, without their weights")
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        policies.write_vlm(Path("vlm"))
        if args.golden:
            copy_vlm(folder / VLM)
        for name in args.names or (GOLDEN if args.golden else SETUPS):
            write(folder / name, name, args.golden)
        os.chdir(folder)
    if not args.golden:
        (folder / "versions.json").write_text(json.dumps(versions(), indent=1) + "\n")


if __name__ == "__main__":
    main()
