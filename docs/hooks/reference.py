"""Pages that are generated from the code: the command line, errors, node parameters and messages."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "ros2_ws/src/edgevlm_ros"))

from edgevlm import errors  # noqa: E402
from edgevlm.cli.app import app  # noqa: E402
from edgevlm_ros.declared import NODES  # noqa: E402


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A link to a file outside docs names the file; it is no page of the site. The index of decisions lists them."""
    markdown = markdown.replace("<!-- records: docs/hooks/reference.py -->", records())
    return re.sub(
        r"\[([^\]]+)\]\(((?:\.\./)+(?:ros2_ws|tests|examples|benchmarks|export|README)[^)#]*)\)", r"\1", markdown
    )


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the generated pages; mkdocs calls this once."""
    pages = {"cli": cli(), "errors": error_table(), "parameters": parameters(), "messages": messages()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def records() -> str:
    """The decision records with their titles."""
    titles = {path.name: path.open().readline() for path in sorted((ROOT / "docs/decisions").glob("0*.md"))}
    return "\n".join(f"* [{title.lstrip('# ').strip()}]({name})" for name, title in titles.items())


def cell(text: object) -> str:
    """Text that cannot end a cell of a table."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").replace("<", "&lt;").strip()


def table(head: tuple[str, ...], rows: Iterator[tuple[object, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows]) + "\n"


def cli() -> str:
    """Every verb with its arguments and options, as the parser has them."""
    group: Any = typer.main.get_command(app)
    text = (
        "# Command line\n\nGenerated from the parser. `--json F` writes the figures as JSON, `-` to standard output.\n"
    )
    for name, command in group.commands.items():
        arguments = [
            (each.metavar or each.name).upper() for each in command.params if each.param_type_name == "argument"
        ]
        usage = " ".join([*arguments, "[OPTIONS]"])
        text += (
            f"\n## edgevlm {name}\n\n{inspect.cleandoc(command.help or '')}\n\n```text\nedgevlm {name} {usage}\n```\n\n"
        )
        text += table(("option", "default", "meaning"), (_option(each) for each in command.params))
    return text


def _option(each: Any) -> tuple[object, ...]:
    names = (
        ", ".join(f"`{name}`" for name in each.opts)
        if each.param_type_name == "option"
        else f"`{(each.metavar or each.name).upper()}`"
    )
    default = (
        "" if each.default is None or callable(each.default) else f"`{getattr(each.default, 'value', each.default)}`"
    )
    return names, "required" if each.required else default, getattr(each, "help", "") or ""


def error_table() -> str:
    """Every error class with its exit code."""

    def rows() -> Iterator[tuple[object, ...]]:
        for name, error in vars(errors).items():
            if inspect.isclass(error) and issubclass(error, errors.EdgevlmError) and error is not errors.EdgevlmError:
                summary = (inspect.getdoc(error) or "").split("\n\n")[0]
                yield f"`{name}`", f"`{error.__mro__[1].__name__}`", error.exit_code, summary

    head = "# Errors\n\nAll are subclasses of `edgevlm.EdgevlmError`. The command line ends with the exit code;\n"
    head += "0 is done, 1 a defect of edgevlm, 2 wrong usage, 130 an interrupt.\n\n"
    return head + table(("error", "is a", "exit code", "meaning"), rows())


def parameters() -> str:
    """Every parameter of every node; what a bundle's contract adds is described in the guide."""
    text = "# Node parameters\n\nGenerated from the nodes' declarations. Parameters of a contract (`axes.<name>...`)\n"
    text += (
        "are described in [ROS 2](../ros.md). A parameter that no node declares is refused, with the nearest name.\n"
    )
    for node, items in NODES.items():
        text += f"\n## {node}\n\n"
        text += table(("parameter", "default", "range", "meaning"), (_parameter(item) for item in items))
    return text


def _parameter(item: Any) -> tuple[object, ...]:
    low, high = item.low, item.high
    ends = ["" if end is None else f"{end:g}" for end in (low, high)]
    span = " .. ".join(ends) if any(ends) else ""
    return f"`{item.name}`", f"`{item.default!r}`", span, item.description


def messages() -> str:
    """The definitions of edgevlm_msgs."""
    text = "# Messages\n\nThe interfaces of the package `edgevlm_msgs`.\n"
    for kind in ("msg", "srv", "action"):
        for path in sorted((ROOT / "ros2_ws/src/edgevlm_msgs" / kind).glob(f"*.{kind}")):
            text += f"\n## {path.stem} ({kind})\n\n```text\n{path.read_text().strip()}\n```\n"
    return text
