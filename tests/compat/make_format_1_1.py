"""Write tests/compat/format_1_1: a retriever, and what it answered when it was made.

Run `python tests/compat/make_format_1_1.py` once for the format; what a release has written is never written again.
Needs neither torch nor onnx: the stages come from tests/support/stages.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from support import tiny

import edgevlm
from edgevlm.bundle import write_record
from edgevlm.manifest.schema import FORMAT

PLACE = Path(__file__).parent / "format_1_1"
BUNDLES: dict[str, dict[str, Any]] = {"dual": {}, "dual_masked": {"masked": True, "scores": "sigmoid", "bias": -1.5}}
SIZES = ((8, 8), (20, 31), (40, 9), (1, 1))


def answer(root: Path) -> dict[str, Any]:
    """What a bundle says of four pictures and three texts."""
    pictures = [np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8) for seed, size in enumerate(SIZES)]
    with edgevlm.load_retriever(root) as retriever:
        match = retriever.match(pictures, tiny.COMMANDS)
        return {
            "bundle_sha256": retriever.bundle.sha256,
            "logits": match.logits.tolist(),
            "scores": match.scores.tolist(),
            "stage_runs": dict(retriever.stage_runs),
        }


def main() -> None:
    """Both bundles and their answers."""
    if FORMAT != "edgevlm.bundle/1.1":
        raise SystemExit(
            f"this script made bundles of format 1.1; this version writes {FORMAT}: copy it under another name"
        )
    for name, more in BUNDLES.items():
        root = tiny.dual(PLACE / name, **more)
        write_record(root, "answer", answer(root))


if __name__ == "__main__":
    main()
