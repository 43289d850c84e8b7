"""edgevlm limits: the first limits of a policy's command gate, to be filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevlm.bundle import read_manifest
from edgevlm.cli.output import JsonOption, next_step, write_json
from edgevlm.gate.first_limits import first_limits
from edgevlm.manifest.schema import PolicyManifest


def command(
    bundle: Annotated[Path, typer.Argument(help="A policy's bundle directory.")],
    json_target: JsonOption = None,
) -> None:
    """Print a parameter file for command_gate, with "??" wherever only somebody who knows the robot can say."""
    contract = read_manifest(bundle).manifest.require(PolicyManifest).contract
    limits = first_limits(contract, bundle.name)
    write_json(json_target, {"limits": limits})
    if json_target != "-":
        typer.echo(limits, nl=False)
    next_step("ros2", "launch", "edgevlm_ros", "policy.launch.py", f"bundle:={bundle}", "gate_params:=limits.yaml")
