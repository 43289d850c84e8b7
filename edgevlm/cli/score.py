"""edgevlm run on a scorer: which of its labels fits what is asked about regions of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from edgevlm.tasks import Scorer
from edgevlm.tasks.features import open_features

SHOWN = 10  # labels in the table; --json has all of them


def ask(console: Console, scorer: Scorer, features: Path | None, texts: Sequence[str]) -> dict[str, Any]:
    """Print the likeliest labels and give all of them as figures."""
    if features is None or len(texts) != 1:
        raise typer.BadParameter(
            "a scorer takes --features F.npy (float32, a row for each region) and one --text T; it sees no pictures"
        )
    found = scorer.score(open_features(features), texts[0])
    table = Table("label", "score", "logit", title=texts[0], title_justify="left")
    order = np.argsort(-found.logits, kind="stable")
    for place in order[:SHOWN]:
        table.add_row(found.labels[place], f"{found.scores[place]:.4f}", f"{found.logits[place]:.3f}")
    if order.size > SHOWN:
        table.caption = f"{order.size - SHOWN} more labels"
    console.print(table)
    return {
        "best": found.best,
        "labels": list(found.labels),
        "scores": found.scores.tolist(),
        "logits": found.logits.tolist(),
        "bundle_sha256": scorer.bundle.sha256,
    }
