"""edgevlm run on a retriever: which label fits a picture, or how well each text fits each picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from edgevlm.tasks import Retriever


def ask(
    console: Console, retriever: Retriever, images: Sequence[str], texts: Sequence[str], labels: str | None
) -> dict[str, Any]:
    """Print the answer and give it as figures: a classification with --labels, a match with --text."""
    if not images or bool(texts) == (labels is not None):
        raise typer.BadParameter(
            "a retriever takes --image F and either --labels a,b,c or --text T (each may be repeated)"
        )
    if labels is None:
        return _match(console, retriever, images, texts)
    if len(images) != 1:
        raise typer.BadParameter("--labels goes with one --image; give --text for several")
    found = retriever.classify(images[0], [label.strip() for label in labels.split(",")])
    table = Table("label", "score", title=images[0], title_justify="left")
    for label, score in sorted(zip(found.labels, found.scores.tolist(), strict=True), key=lambda row: -row[1]):
        table.add_row(label, f"{score:.4f}")
    console.print(table)
    return {
        "best": found.best,
        "scores": dict(zip(found.labels, found.scores.tolist(), strict=True)),
        "bundle_sha256": retriever.bundle.sha256,
    }


def _match(console: Console, retriever: Retriever, images: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    found = retriever.match(list(images), texts)
    table = Table("picture", *texts, title="logits", title_justify="left")
    for image, row in zip(images, found.logits.tolist(), strict=True):
        table.add_row(image, *(f"{value:.3f}" for value in row))
    console.print(table)
    return {
        "images": list(images),
        "texts": list(texts),
        "logits": found.logits.tolist(),
        "scores": found.scores.tolist(),
        "bundle_sha256": retriever.bundle.sha256,
    }
