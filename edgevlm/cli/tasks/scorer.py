"""A scorer on the command line: which of its labels fits what is asked about regions of a picture."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from edgevlm.bundle import Bundle
from edgevlm.cli.tasks.base import Measured, Plan, Request, TaskRow, Way, measure_steps
from edgevlm.manifest.schema import ScorerManifest
from edgevlm.tasks import Scorer
from edgevlm.tasks.features import feature_limits, open_features

MAX_SCORES = 10  # labels in the table; --json has all of them
MAX_LABELS = 12  # of `inspect`
REGIONS = 36  # of a profile, made up


def _ask(console: Console, scorer: Scorer, request: Request) -> dict[str, Any]:
    """Print the likeliest labels and give all of them as figures."""
    features, texts = request.features, request.texts
    if features is None or len(texts) != 1:
        raise typer.BadParameter(
            "a scorer takes --features F.npy (float32, a row for each region) and one --text T; it sees no pictures"
        )
    result = scorer.score(open_features(features), texts[0])
    table = Table("label", "score", "logit", title=texts[0], title_justify="left")
    order = np.argsort(-result.logits, kind="stable")
    for place in order[:MAX_SCORES]:
        table.add_row(result.labels[place], f"{result.scores[place]:.4f}", f"{result.logits[place]:.3f}")
    if order.size > MAX_SCORES:
        table.caption = f"{order.size - MAX_SCORES} more labels"
    console.print(table)
    return {
        "best": result.best,
        "labels": list(result.labels),
        "scores": result.scores.tolist(),
        "logits": result.logits.tolist(),
        "bundle_sha256": scorer.bundle.sha256,
    }


def _table(bundle: Bundle) -> Table:
    manifest = bundle.manifest.require(ScorerManifest)
    text, labels, args = manifest.text, manifest.labels, manifest.driver.args
    head = bundle.manifest.stages[args.head]
    port = next(port for port in head.inputs if port.kind == "features")
    low, high, width = feature_limits(head, port.name)
    table = Table("what", "how", title="regions and texts", title_justify="left")
    table.add_row("features", f"float32, {low} to {high} regions of {width} numbers each")
    table.add_row("texts", f"at most {text.max_tokens} tokens")
    more = f" and {len(labels) - MAX_LABELS} more" if len(labels) > MAX_LABELS else ""
    table.add_row("labels", ", ".join(labels[:MAX_LABELS]) + more)
    table.add_row("scores", f"{args.scores} of the logits")
    return table


def _measure(scorer: Scorer, plan: Plan) -> Measured:
    random, text = np.random.default_rng(0), plan.instruction or "What can be seen here?"
    size = (min(REGIONS, scorer.most_regions), scorer.width)
    return measure_steps(
        plan, scorer, lambda step: partial(scorer.score, random.standard_normal(size, np.float32), text)
    )


SCORER = TaskRow(ways={"once": Way(frozenset({"features", "text"}), _ask)}, table=_table, measure=_measure)
