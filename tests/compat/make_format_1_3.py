"""Write tests/compat/format_1_3: one bundle for each loop that came with it, and what it answered when it was made.

Run `python tests/compat/make_format_1_3.py` once for the format; what a release has written is never written again.
Needs neither torch nor onnx: the stages come from tests/support/stages.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import asker, denoising, paired, spotter, tiny

import edgevlm
from edgevlm.bundle import write_record
from edgevlm.manifest.schema import FORMAT

PLACE = Path(__file__).parent / "format_1_3"
BUNDLES: dict[str, Callable[[Path], Path]] = {
    "cross": paired.cross,
    "denoise": denoising.policy,
    "regions": partial(spotter.regions, frame="square"),
    "scorer": paired.scorer,
    "seq2seq": partial(asker.chat, reader="encoder"),
}
QUESTIONS = ("what is it?", "where is it?")
SIZES = ((8, 8), (20, 31), (40, 9))


def answer(root: Path) -> dict[str, Any]:
    """What a bundle says of three pictures, or of three pictures' regions; of five steps, where it is a policy."""
    if root.name == "denoise":
        return acted(root)
    ask = {"cross": matched, "regions": detected, "scorer": scored, "seq2seq": answered}[root.name]
    model = edgevlm.load(root)
    with model:
        record = ask(model)
        return {"bundle_sha256": model.bundle.sha256, **record, "stage_runs": dict(model.stage_runs)}


def acted(root: Path) -> dict[str, Any]:
    """Five steps of an episode; the instruction changes at the fourth, a reset comes before the last."""
    with edgevlm.load(root) as policy:
        session, chunks = policy.session(), []
        for index in range(5):
            if index == 4:
                session.reset()
            chunks.append(session.act(tiny.observation(policy.contract, index, tiny.COMMANDS[index > 2])))
        return {
            "bundle_sha256": policy.bundle.sha256,
            "values": [chunk.values.tolist() for chunk in chunks],
            "valid_until_ns": [chunk.valid_until_ns for chunk in chunks],
            "stage_runs": dict(session.stage_runs),
        }


def pictures() -> list[NDArray[np.uint8]]:
    """Noise of three sizes."""
    return [np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8) for seed, size in enumerate(SIZES)]


def matched(model: Any) -> dict[str, Any]:
    """Every picture with every text."""
    match = model.match(pictures(), tiny.COMMANDS)
    observed = [model.embed_image(one) @ model.embed_text(text) for one in pictures() for text in tiny.COMMANDS]
    return {"logits": match.logits.tolist(), "scores": match.scores.tolist(), "values": np.array(observed).tolist()}


def detected(model: Any) -> dict[str, Any]:
    """Every region of every picture, and what is found at a threshold."""
    every = [model.regions(one, tiny.COMMANDS) for one in pictures()]
    result = [one.above(0.3) for one in every]
    return {
        "logits": [one.logits.tolist() for one in every],
        "values": [one.boxes.tolist() for one in every],
        "labels": [list(one.labels) for one in result],
    }


def scored(model: Any) -> dict[str, Any]:
    """Regions of three pictures with every text."""
    each = [model.score(paired.regions(2 + seed, seed), text) for seed in range(3) for text in tiny.COMMANDS]
    return {
        "logits": [one.logits.tolist() for one in each],
        "scores": [one.scores.tolist() for one in each],
        "best": [one.best for one in each],
    }


def answered(model: Any) -> dict[str, Any]:
    """Two questions about every picture."""
    replies = [model.ask(one, question, max_new_tokens=10) for one in pictures() for question in QUESTIONS]
    return {"answers": [{"token_ids": list(one.token_ids), "text": one.text} for one in replies]}


def main() -> None:
    """Every bundle and its answer."""
    if FORMAT != "edgevlm.bundle/1.3":
        raise SystemExit(
            f"this script made bundles of format 1.3; this version writes {FORMAT}: copy it under another name"
        )
    for name, make in BUNDLES.items():
        root = make(PLACE / name)
        write_record(root, "answer", answer(root))


if __name__ == "__main__":
    main()
