"""edgevlm inspect: what a bundle is, needs and was measured to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from edgevlm.bundle import Bundle, open_bundle
from edgevlm.cli.output import JsonOption, next_step, people, write_json
from edgevlm.cli.tasks import ROWS
from edgevlm.manifest.stages import Port


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory.")],
    json_target: JsonOption = None,
) -> None:
    """Show a bundle's contract, stages and records. Its files are checked against the manifest first."""
    opened = open_bundle(bundle)
    console = people(json_target)
    _print_head(console, opened)
    console.print(ROWS[opened.manifest.task].table(opened))
    console.print(_stage_table(opened))
    if records := opened.records():
        console.print(f"records: {', '.join(records)} (see --json)")
    write_json(json_target, figures(opened))
    next_step("edgevlm", "profile", bundle)


def figures(bundle: Bundle) -> dict[str, Any]:
    """The manifest, its hash and the records."""
    return {
        "bundle_sha256": bundle.sha256,
        "manifest": bundle.manifest.model_dump(mode="json"),
        "records": bundle.records(),
    }


def _print_head(console: Console, bundle: Bundle) -> None:
    manifest = bundle.manifest
    console.print(f"{bundle.root}  {manifest.format}  sha256 {bundle.sha256[:16]}")
    console.print(
        f"task {manifest.task}, family {manifest.family}, driver {manifest.driver.name}, precision {manifest.precision}"
    )


def _stage_table(bundle: Bundle) -> Table:
    table = Table("stage", "precision", "int8 nodes", "cache", "inputs", "KB", title="stages", title_justify="left")
    for name, stage in bundle.manifest.stages.items():
        inputs = ", ".join(_ports(stage.inputs))
        size = bundle.manifest.files[next(iter(stage.forms.values()))].bytes / 1024
        precision = f"{stage.precision} ({stage.reason})" if stage.reason else stage.precision
        table.add_row(name, precision, str(stage.quantized_nodes), stage.frame_cache, inputs, f"{size:.0f}")
    return table


def _ports(ports: Sequence[Port]) -> list[str]:
    """Each port, or how many there are of a kind where a decoder has one for each layer."""
    kinds = Counter(port.kind for port in ports)
    texts: dict[str, str] = {}
    for port in ports:
        many = kinds[port.kind] > 2 and port.kind.startswith(("past_", "cross_"))
        name = f"{kinds[port.kind]} x {port.kind}" if many else port.name
        texts.setdefault(name, f"{name}{list(port.shape)}")
    return list(texts.values())
