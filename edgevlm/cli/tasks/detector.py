"""A detector on the command line: where in a picture are these things."""

from __future__ import annotations

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
from edgevlm.manifest.schema import DetectorManifest
from edgevlm.tasks import Detector


def _ask(console: Console, detector: Detector, request: Request) -> dict[str, Any]:
    """Print the boxes of one picture, best first, and give them as figures."""
    images, labels, threshold = request.images, request.labels, request.threshold
    if len(images) != 1 or labels is None:
        raise typer.BadParameter("a detector takes one --image F and --labels a,b,c")
    detections = detector.detect(images[0], [label.strip() for label in labels.split(",")], threshold)
    title = f"{images[0]}: {len(detections.labels)} above {threshold:g}, in pixels"
    table = Table("label", "score", "left", "top", "right", "bottom", title=title, title_justify="left")
    rows = list(zip(detections.labels, detections.scores.tolist(), detections.boxes.tolist(), strict=True))
    for label, score, box in rows:
        table.add_row(label, f"{score:.4f}", *(f"{side:.1f}" for side in box))
    console.print(table)
    return {
        "image": images[0],
        "threshold": threshold,
        "found": [{"label": label, "score": score, "box": box} for label, score, box in rows],
        "bundle_sha256": detector.bundle.sha256,
    }


def _table(bundle: Bundle) -> Table:
    manifest = bundle.manifest.require(DetectorManifest)
    text, args = manifest.text, manifest.driver.args
    table = operations_table("pictures and labels", manifest.operations)
    table.add_row("labels", f"at most {text.max_tokens} tokens each")
    regions = next(port for port in bundle.manifest.stages[args.vision].outputs if port.kind == "regions")
    table.add_row("regions", f"{regions.shape[1]} of a picture, one box each, measured by the {args.frame}")
    return table


def _measure(detector: Detector, plan: Plan) -> Measured:
    return measure_pictures(plan, detector, detector.detect)


DETECTOR = TaskRow(
    ways={"once": Way(frozenset({"image", "labels", "threshold"}), _ask)},
    table=_table,
    measure=_measure,
    instructed=False,
)
