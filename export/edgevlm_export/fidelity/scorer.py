"""Does a scorer do what its source does? Logits and labels through the runtime, beside a judge.

The judge is the original model in one native forward (with its own tokenizer), or another bundle. Other regions,
regions of nothing, other words and words in another order must move the logits by far more than the bundle is off.
Regions in another order are no control: they have no places, so the model must not care.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.data.pictures import PictureData
from edgevlm.data.regions import make_up_regions, open_regions
from edgevlm.errors import FidelityError
from edgevlm.tasks import Scorer
from edgevlm_calibration.pictures import SCORER, questions
from edgevlm_calibration.progress import Progress, silent
from edgevlm_export.fidelity.comparison import (
    OPTIONS,
    Comparison,
    OfBundle,
    OfCheckpoint,
    Reference,
    compare,
    is_exact,
    open_source,
)
from edgevlm_export.fidelity.controls import ControlFigures, check_controls, control_figures
from edgevlm_export.fidelity.metrics import centred_cosine, check_alike, cosine, judged_on, without_common
from edgevlm_export.stage_graph import ScorerGraph

PAIRS = 48  # compared at most
BIT_PAIRS = 12
FP32_LIMIT = 1e-4  # largest error of an fp32 bundle's logits, relative to the largest one
COSINE_LIMIT = 0.98  # of the worst logits of a bundle in another precision, and of what varies in all of them
MADE_UP = "made-up features: this shows that the graphs agree, not how a detector's fare"

Pair = tuple[NDArray[np.float32], str]  # features (R, V) and what is asked about them
Logits = NDArray[np.float32]  # (P, C)


class ScorerReference(Reference, Protocol):
    """Who says what the right answer is."""

    labels: tuple[str, ...]
    width: int  # of the features of a region

    def answer(self, pairs: Sequence[Pair]) -> Logits: ...


class OriginalScorer(OfCheckpoint[ScorerGraph]):
    """The PyTorch model in one native forward for each pair."""

    def __init__(self, graph: ScorerGraph) -> None:
        super().__init__(graph)
        self.labels, self.width = graph.labels, graph.width

    def answer(self, pairs: Sequence[Pair]) -> Logits:
        """The original's answer."""
        return np.stack([self.graph.reference(features, text) for features, text in pairs])


class BundleScorer(OfBundle[Scorer]):
    """Another bundle, through the runtime."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, Scorer(bundle, OPTIONS))
        self.labels, self.width = self.model.labels, self.model.width

    def answer(self, pairs: Sequence[Pair]) -> Logits:
        """The other bundle's answer."""
        return ask(self.model, pairs)


def ask(scorer: Scorer, pairs: Sequence[Pair]) -> Logits:
    """What a loaded bundle says."""
    return np.stack([scorer.score(features, text).logits for features, text in pairs])


def compare_scorer(
    bundle: Bundle, judge: ScorerReference, data: PictureData, progress: Progress = silent
) -> dict[str, Any]:
    """The figures of an opened bundle on the held-out features and texts.

    Raises:
        FidelityError: other labels or another width, the bundle is off, a control did not move the logits, or the
            forms differ.
    """
    with Scorer(bundle, OPTIONS) as scorer:
        check_alike("scorer's labels", scorer.labels, judge.labels)
        check_alike("width of features", scorer.width, judge.width)
    chosen = questions(data.held_out, data.held_out_texts, PAIRS)
    pairs = [(photo.load(), text) for photo, text in chosen]
    want = judge.answer(pairs)
    comparison = Comparison(
        name="scoring",
        open=SCORER.open,
        ask=partial(ask, pairs=pairs),
        figures=partial(_figures, want=want),
        controls=lambda scorer, got: _controls(scorer, pairs, got, want),
        visits=[partial(Scorer.score, features=features, text=text) for features, text in pairs[:BIT_PAIRS]],
    )
    names = list(dict.fromkeys(photo.name for photo, _ in chosen))
    told = judged_on(data, names, list(dict.fromkeys(text for _, text in pairs)))
    told |= {"note": MADE_UP if data.kind == "synthetic" else ""}
    figures, controls = compare(bundle, judge, comparison, told, progress)
    _accept(bundle, judge, figures["scoring"], controls)
    return figures


def verify_scorer(bundle: Bundle, against: Path, data: Path | None, progress: Progress) -> dict[str, Any]:
    """The figures of `bundle` against a checkpoint directory or another bundle; features are made up without `data`.

    Raises:
        BundleError, CheckpointError, FamilyError, CalibrationError, TaskError: something does not open.
        FidelityError: as `compare_scorer`.
    """
    source = open_source(against, ScorerGraph, "scorer")
    judge: ScorerReference = BundleScorer(source) if isinstance(source, Bundle) else OriginalScorer(source)
    with Scorer(bundle, OPTIONS) as scorer:
        limits = scorer.limits
    regions = make_up_regions(limits[2]) if data is None else open_regions(data, limits)
    return compare_scorer(bundle, judge, regions, progress)


def _figures(got: Logits, want: Logits) -> dict[str, Any]:
    scale, error = float(np.abs(want).max()), float(np.abs(got - want).max())
    return {
        "logit_cosine_min": min(cosine(a, b) for a, b in zip(got, want, strict=True)),
        "logit_centred_cosine": centred_cosine(without_common(got), without_common(want)),
        "logit_scale": scale,
        "logit_max_abs_error": error,
        "logit_relative_error": error / max(scale, float(np.finfo(np.float32).tiny)),
        "same_best_label": float(np.mean(got.argmax(1) == want.argmax(1))),
    }


def _controls(scorer: Scorer, pairs: Sequence[Pair], got: Logits, want: Logits) -> tuple[ControlFigures, ...]:
    """Wrong regions and wrong texts, by how far they move the logits."""
    features, texts = [one for one, _ in pairs], [text for _, text in pairs]
    changed: dict[str, Callable[[int], Pair]] = {
        "other-regions": lambda i: (features[i - 1], texts[i]),
        "no-regions": lambda i: (np.zeros_like(features[i]), texts[i]),
        "other-text": lambda i: (features[i], next((t for t in texts[i:] + texts[:i] if t != texts[i]), texts[i])),
        "reversed-words": lambda i: (features[i], " ".join(reversed(texts[i].split()))),
    }
    long = [i for i, text in enumerate(texts) if len(set(text.split())) > 2]
    found = []
    for name, change in changed.items():
        wanted = long if name == "reversed-words" else list(range(len(pairs)))
        if wanted:
            moved = np.abs(ask(scorer, [change(i) for i in wanted]) - want[wanted])
            found.append(control_figures(name, moved, np.abs(got - want)))
    return tuple(found)


def _accept(
    bundle: Bundle, judge: ScorerReference, compared: Sequence[dict[str, Any]], controls: tuple[ControlFigures, ...]
) -> None:
    exact = is_exact(bundle, judge)
    for row in compared:
        if exact and row["logit_relative_error"] > FP32_LIMIT:
            raise FidelityError(
                f"expected fp32 logits within {FP32_LIMIT} of the original's scale, got "
                f"{row['logit_relative_error']:.3g}; tokenizer or cut is wrong: see the family's adapter"
            )
        worst = min(row["logit_cosine_min"], row["logit_centred_cosine"])
        if worst < COSINE_LIMIT:
            raise FidelityError(
                f"form {row['form']!r}: expected logits of cosine {COSINE_LIMIT} or more with the original's, and of "
                f"what varies in them, got {worst:.4f}; give more calibration data, or try --precision fp16"
            )
    check_controls(controls, "the logits")
