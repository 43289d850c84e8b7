"""edgevlm run on a detector: where in a picture are these things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from edgevlm.tasks import Detector


def ask(
    console: Console, detector: Detector, images: Sequence[str], labels: str | None, threshold: float
) -> dict[str, Any]:
    """Print the boxes of one picture, best first, and give them as figures."""
    if len(images) != 1 or labels is None:
        raise typer.BadParameter("a detector takes one --image F and --labels a,b,c")
    found = detector.detect(images[0], [label.strip() for label in labels.split(",")], threshold)
    title = f"{images[0]}: {len(found.labels)} above {threshold:g}, in pixels"
    table = Table("label", "score", "left", "top", "right", "bottom", title=title, title_justify="left")
    rows = list(zip(found.labels, found.scores.tolist(), found.boxes.tolist(), strict=True))
    for label, score, box in rows:
        table.add_row(label, f"{score:.4f}", *(f"{side:.1f}" for side in box))
    console.print(table)
    return {
        "image": images[0],
        "threshold": threshold,
        "found": [{"label": label, "score": score, "box": box} for label, score, box in rows],
        "bundle_sha256": detector.bundle.sha256,
    }
