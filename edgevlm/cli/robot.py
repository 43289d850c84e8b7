"""edgevlm robot: the robot file of a policy, to be filled in."""

from __future__ import annotations

from typing import Annotated

import typer

from edgevlm.cli.output import JsonOption, next_step, people, progress, upper, write_json


def command(
    source: Annotated[str, typer.Argument(help="A policy: a directory or a hub id, as for export.")],
    json_target: JsonOption = None,
) -> None:
    """Print the file that `export --robot` takes, with "?" wherever only somebody who knows the robot can say."""
    console = people(json_target)
    with progress(console) as report:
        template = upper("preflight").robot_template(source, report)
    write_json(json_target, {"template": template})
    if json_target != "-":
        typer.echo(template, nl=False)
    next_step("edgevlm", "export", source, "-o", "BUNDLE", "--robot", "robot.yaml")
