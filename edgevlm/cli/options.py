"""Which options mean something to which model: the others are refused, never ignored."""

from __future__ import annotations

import typer

ALWAYS = frozenset({"bundle", "threads", "json_target", "sim", "chat"})
SAYING = frozenset({"seed", "max_new_tokens", "temperature", "top_p"})

# What is asked -> parameters of the command `run`
MEANT = {
    "policy": frozenset({"image", "text", "state"}),
    "policy in the simulator": frozenset(
        {"episodes", "seed", "commands", "variant", "control", "latency_ms", "record", "strip"}
    ),
    "chat": SAYING | {"image", "text"},
    "retriever": frozenset({"image", "text", "labels"}),
    "detector": frozenset({"image", "labels", "threshold"}),
    "scorer": frozenset({"features", "text"}),
}


def check_options(context: typer.Context, asked: str) -> None:
    """Raises typer.BadParameter where an option was given that means nothing to what is `asked`, a key of MEANT."""
    flags = {param.name: param.opts[0] for param in context.command.params if param.name}
    sources = {name: context.get_parameter_source(name) for name in flags}
    # By name: newer releases of typer bring a click of their own, whose enumeration is another one than click's.
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    meant = MEANT[asked]
    if strange := [flags[name] for name in given if name not in meant | ALWAYS]:
        takes = ", ".join(flags[name] for name in flags if name in meant)
        raise typer.BadParameter(f"{', '.join(strange)}: means nothing to a {asked}, which takes {takes}; leave it out")
