"""edgevlm verify: is this bundle whole, and does it do what its source does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgevlm.bundle import open_bundle
from edgevlm.cli.export import print_fidelity
from edgevlm.cli.output import JsonOption, StampsBy, next_step, people, progress, upper, write_json


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory.")],
    against: Annotated[
        str | None,
        typer.Option(help="The checkpoint it was made from (a directory or a hub id, as for export), or a bundle."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A recording of the robot (MCAP), or a folder of pictures or .npy files.")
    ] = None,
    topics: Annotated[Path | None, typer.Option(help="YAML that maps the recording's topics to the contract.")] = None,
    stamps: Annotated[
        StampsBy | None, typer.Option(help="As for export; without it, as the bundle's export read its recording.")
    ] = None,
    robot: Annotated[Path | None, typer.Option(help="The robot file that the bundle was exported with.")] = None,
    json_target: JsonOption = None,
) -> None:
    """Check every file against the manifest; with --against also compare outputs, in the units of the task."""
    console = people(json_target)
    opened = open_bundle(bundle)
    figures: dict[str, Any] = {"bundle_sha256": opened.sha256, "files": len(opened.manifest.files), "whole": True}
    console.print(f"{bundle}: {len(opened.manifest.files)} files whole, sha256 {opened.sha256[:16]}")
    if against is not None:
        with progress(console) as report:
            figures["fidelity"] = upper("verify").verify(
                bundle,
                against=against,
                data=data,
                topics=topics,
                stamps=stamps and stamps.value,
                robot=robot,
                progress=report,
            )
        print_fidelity(console, figures["fidelity"])
    write_json(json_target, figures)
    next_step("edgevlm", "profile", bundle)
