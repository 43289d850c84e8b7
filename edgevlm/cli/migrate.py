"""edgevlm migrate: an older bundle in this version's format, with no program in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevlm.cli.output import JsonOption, next_step, people, write_json
from edgevlm.migration import migrate


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory of any earlier format.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The bundle to write; an earlier bundle there is replaced.")
    ],
    json_target: JsonOption = None,
) -> None:
    """Write a bundle in today's format: a chat template becomes data, and the prompts are proven to be the same."""
    console = people(json_target)
    done = migrate(bundle, output)
    console.print(f"{output}  {done.from_format} -> {done.to_format}  sha256 {done.bundle_sha256[:16]}")
    if done.removed:
        console.print(f"without {', '.join(done.removed)}; {done.dialogues} generated dialogues are written as by it")
    write_json(json_target, done.to_json())
    next_step("edgevlm", "verify", output)
