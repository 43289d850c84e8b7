"""A retriever on the command line: which label fits a picture, or how well each text fits each picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from edgevlm.bundle import Bundle
from edgevlm.cli.tasks.base import (
    Measured,
    Plan,
    Request,
    TaskRow,
    Way,
    measure_pictures,
    operations_table,
)
from edgevlm.manifest.schema import DualArgs, RetrieverManifest
from edgevlm.tasks import Retriever


def _ask(console: Console, retriever: Retriever, request: Request) -> dict[str, Any]:
    """Print the answer and give it as figures: a classification with --labels, a match with --text."""
    images, texts, labels = request.images, request.texts, request.labels
    if not images or bool(texts) == (labels is not None):
        raise typer.BadParameter(
            "a retriever takes --image F and either --labels a,b,c or --text T (each may be repeated)"
        )
    if labels is None:
        return _match(console, retriever, images, texts)
    if len(images) != 1:
        raise typer.BadParameter("--labels goes with one --image; give --text for several")
    result = retriever.classify(images[0], [label.strip() for label in labels.split(",")])
    table = Table("label", "score", title=images[0], title_justify="left")
    for label, score in sorted(zip(result.labels, result.scores.tolist(), strict=True), key=lambda row: -row[1]):
        table.add_row(label, f"{score:.4f}")
    console.print(table)
    return {
        "best": result.best,
        "scores": dict(zip(result.labels, result.scores.tolist(), strict=True)),
        "bundle_sha256": retriever.bundle.sha256,
    }


def _match(console: Console, retriever: Retriever, images: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    result = retriever.match(list(images), texts)
    table = Table("picture", *texts, title="logits", title_justify="left")
    for image, row in zip(images, result.logits.tolist(), strict=True):
        table.add_row(image, *(f"{value:.3f}" for value in row))
    console.print(table)
    return {
        "images": list(images),
        "texts": list(texts),
        "logits": result.logits.tolist(),
        "scores": result.scores.tolist(),
        "bundle_sha256": retriever.bundle.sha256,
    }


def _table(bundle: Bundle) -> Table:
    manifest = bundle.manifest.require(RetrieverManifest)
    text, args = manifest.text, manifest.driver.args
    table = operations_table("pictures and texts", manifest.operations)
    length = "filled up to that" if text.length == "fixed" else "as long as they are"
    table.add_row("texts", f"at most {text.max_tokens} tokens, {length}")
    if isinstance(args, DualArgs):
        table.add_row("logits", f"{args.scale:g} * cosine + {args.bias:g}, probabilities by {args.scores}")
    else:
        table.add_row("logits", "yes - no of a head that reads each pair, probabilities of yes")
    return table


def _measure(retriever: Retriever, plan: Plan) -> Measured:
    return measure_pictures(plan, retriever, lambda picture, texts: retriever.match([picture], texts))


RETRIEVER = TaskRow(
    ways={"once": Way(frozenset({"image", "text", "labels"}), _ask)},
    table=_table,
    measure=_measure,
    instructed=False,
)
