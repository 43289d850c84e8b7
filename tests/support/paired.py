"""Bundles of a few kilobytes that read a picture, or features of its regions, and a text together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.tiny import NORMALIZE, dual_parts, port, stage, write_bundle

from edgevlm.manifest.image_ops import CenterCrop, ResizeShortest
from edgevlm.manifest.schema import Port, TextSpec

LABELS = ("yes", "no", "maybe")
FEATURES, MOST = 5, 8  # of a region; regions
LOOKED = [port("image_key_0", "cross_key", 1, 16, 2, 3), port("image_value_0", "cross_value", 1, 16, 2, 3)]
IDS = Port(name="ids", dtype="int64", shape=(1, "tokens"), kind="ids")
WORDS = {"tokens": (1, 4, 6)}
TEXT = TextSpec(max_tokens=6, length="own", pad_id=0)


def cross(root: Path, *, alone: bool = True, separate_vision: bool = True) -> Path:
    """Write a retriever that reads pairs; `alone` gives texts embeddings of their own, `separate_vision` pictures."""
    embedding = [port("image_embedding", "embedding", 1, 6)] if separate_vision else []
    file = "cross_vision" if separate_vision else "cross_vision_plain"
    vision = stage(file, [port("pixels", "pixels", 1, 3, 8, 8)], [*LOOKED, *embedding])
    stages = {"vision": vision, "head": stage("cross_head", [IDS, *LOOKED], [scores_port(2)], dynamic=WORDS)}
    if alone:
        stages["text"] = dual_parts()["stages"]["text"]
    args = {"vision": "vision", "text": "text" if alone else None, "head": "head", "scores": "match"}
    return write_bundle(
        root,
        {
            "task": "retriever",
            "stages": stages,
            "preprocess": {"image": (ResizeShortest(size=8), CenterCrop(width=8, height=8), NORMALIZE)},
            "driver": {"name": "cross", "args": args},
            "text": TEXT,
        },
    )


def scorer(root: Path, labels: tuple[str, ...] = LABELS) -> Path:
    """Write a scorer."""
    features = Port(name="features", dtype="float32", shape=(1, "regions", FEATURES), kind="features")
    head = stage("scorer_head", [IDS, features], [scores_port(3)], dynamic={**WORDS, "regions": (1, 4, MOST)})
    return write_bundle(
        root,
        {
            "task": "scorer",
            "stages": {"head": head},
            "preprocess": {},
            "driver": {"name": "cross", "args": {"vision": None, "text": None, "head": "head", "scores": "softmax"}},
            "text": TEXT,
            "labels": labels,
        },
    )


def regions(count: int = 4, seed: int = 0) -> NDArray[np.float32]:
    """Made-up features."""
    return np.random.default_rng(seed).standard_normal((count, FEATURES)).astype(np.float32)


def scores_port(columns: int) -> Any:
    """The head's output."""
    return port("scores", "scores", 1, columns)
