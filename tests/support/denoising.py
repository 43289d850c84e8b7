"""A policy bundle of a few kilobytes whose chunk is made of noise, in steps: one camera, three numbers of a state."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from support import tiny

from edgevlm.bundle import new_directory, write_manifest
from edgevlm.manifest.image_ops import Normalize, ResizeWithPad
from edgevlm.manifest.schema import FORMAT, FileEntry, Manifest

STEPS, TIME = 4, 6
FEATURES, CHUNK, WORDS = (1, 4, 4), (1, 5, 8), 16


def parts() -> dict[str, Any]:
    """What the manifest says beside its files."""
    mask = tiny.port("mask", "mask", 1, 6)
    keys = [tiny.port(f"cross_{kind}_0", f"cross_{kind}", 1, 11, 2, 4) for kind in ("key", "value")]
    observed = tiny.port("front", "features", *FEATURES)
    read = [observed, tiny.port("embeds", "embeds", 1, 6, 4), mask, tiny.port("state", "state", 1, 3)]
    moved = [tiny.port("sample", "sample", *CHUNK), tiny.port("time", "time", 1, TIME), mask, *keys]
    args = {
        **{"vision": {"front": "vision"}, "embeddings": "embeddings.npy", "prefix": "prefix", "step": "denoise"},
        **{"steps": STEPS, "periods": (0.004, 4.0), "seed": 7},
    }
    return {
        **{"format": FORMAT, "family": "tiny", "task": "policy", "precision": "fp32", "source_sha256": "0" * 64},
        "tokenizer": "tokenizer.json",
        "stages": {
            "vision": tiny.vision("denoise_vision", 8, 8, FEATURES),
            "prefix": tiny.stage("denoise_prefix", read, keys),
            "denoise": tiny.stage("denoise_step", moved, [tiny.port("velocity", "velocity", *CHUNK)]),
        },
        "preprocess": {
            "front": (ResizeWithPad(width=8, height=8), Normalize(scale=1.0, mean=(0.5,) * 3, std=(0.5,) * 3))
        },
        "driver": {"name": "denoise", "args": args},
        "contract": tiny.mono_contract(1).model_copy(update={"plan": None}),
    }


def policy(root: Path) -> Path:
    """Write the bundle."""
    fields = parts()

    def build(files: Mapping[str, FileEntry]) -> Manifest:
        return Manifest.build(**{**fields, "files": files})

    with new_directory(root) as work:
        (work / "stages").mkdir()
        for stage in fields["stages"].values():
            for form in stage.forms.values():
                shutil.copyfile(tiny.STAGES / Path(form).name, work / form)
        shutil.copyfile(tiny.TOKENIZER, work / "tokenizer.json")
        rows = np.sin(np.arange(WORDS * 4)).reshape(WORDS, 4).astype(np.float16)
        np.save(work / "embeddings.npy", rows, allow_pickle=False)
        write_manifest(work, build)
    return root
