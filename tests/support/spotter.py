"""A tiny detector: a bundle of a few kilobytes whose stages are real graphs with fixed random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.tiny import port, stage, write_bundle

from edgevlm.manifest.image_ops import Normalize, Resize, SmoothToSquare
from edgevlm.manifest.schema import Port, TextSpec

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
REGIONS, WIDTH = 16, 6


def parts(*, frame: str = "picture") -> dict[str, Any]:
    """What the manifest says beside its files; `square` pads pictures, as the model's boxes then expect."""
    outputs = [port("regions", "regions", 1, REGIONS, WIDTH), port("boxes", "boxes", 1, REGIONS, 4)]
    outputs += [port(kind, kind, 1, REGIONS) for kind in ("shift", "scale", "objectness")]
    vision = stage("regions_vision", [port("pixels", "pixels", 1, 3, 8, 8)], outputs)
    ids = [Port(name="ids", dtype="int64", shape=(1, "tokens"), kind="ids")]
    text_outputs = [port("text_embedding", "embedding", 1, WIDTH)]
    resize = SmoothToSquare(size=8) if frame == "square" else Resize(width=8, height=8)
    normalize = Normalize(scale=1.0, mean=MEAN, std=STD) if frame == "square" else Normalize(mean=MEAN, std=STD)
    return {
        "task": "detector",
        "stages": {"vision": vision, "text": stage("dual_text", ids, text_outputs, dynamic={"tokens": (1, 4, 6)})},
        "preprocess": {"image": (resize, normalize)},
        "driver": {"name": "regions", "args": {"vision": "vision", "text": "text", "frame": frame}},
        "text": TextSpec(max_tokens=6, length="own"),
    }


def regions(root: Path, **more: Any) -> Path:
    """Write one; `more` as `parts` takes it."""
    return write_bundle(root, parts(**more))
