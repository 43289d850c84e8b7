"""edgevlm calibrate: a recording of the robot -> activation ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevlm.cli.output import JsonOption, StampsBy, StampsOption, next_step, people, progress, upper, write_json


def command(
    bundle: Annotated[Path, typer.Argument(help="An fp32 bundle.")],
    data: Annotated[Path, typer.Option(help="A recording of the robot (MCAP).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to write, JSON.")],
    topics: Annotated[Path | None, typer.Option(help="YAML that maps the recording's topics to the contract.")] = None,
    stamps: StampsOption = StampsBy.HEADER,
    samples: Annotated[int, typer.Option(min=1, help="Steps of the recording to calibrate on.")] = 256,
    json_target: JsonOption = None,
) -> None:
    """Run an fp32 bundle over a recording, through the runtime's own preprocess and graph; note activation ranges."""
    console = people(json_target)
    with progress(console) as report:
        table = upper("calibrate").calibrate(
            bundle, data, topics=topics, stamps=stamps.value, samples=samples, progress=report
        )
    table.save(output)
    console.print(f"{output}  {table.samples} samples, sha256 {table.sha256()[:16]}")
    write_json(json_target, table.to_json())
    next_step("edgevlm", "export", "CHECKPOINT", "-o", "BUNDLE", "--int8", "--calib", output)
