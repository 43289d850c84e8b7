"""Pages that are generated from the code: command line, Python API, errors, node parameters, messages, schema."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "ros2_ws/src/edgevlm_ros"))

import edgevlm  # noqa: E402
from edgevlm import errors  # noqa: E402
from edgevlm.cli.app import app  # noqa: E402
from edgevlm.manifest.contract import Contract  # noqa: E402
from edgevlm_ros.declared import NODES  # noqa: E402
from edgevlm_ros.gate_parameters import contract_items  # noqa: E402

SCHEMA = "bundle.schema.json"
CONFIG = "examples/tabletop/checkpoint/config.json"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A link to a file outside docs names the file; it is no page of the site. The index of decisions lists them."""
    markdown = markdown.replace("<!-- records: docs/hooks/reference.py -->", records())
    return re.sub(
        r"\[([^\]]+)\]\(((?:\.\./)+(?:ros2_ws|tests|examples|benchmarks|export|README)[^)#]*)\)", r"\1", markdown
    )


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the generated pages; mkdocs calls this once."""
    pages = {
        "cli": cli(),
        "api": api(),
        "errors": error_table(),
        "parameters": parameters(),
        "messages": messages(),
        "schema": schema(),
    }
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
        "# Command line\n\nGenerated from the parser. `--json F` writes the figures as JSON, `-` to standard output. "
        "`edgevlm --verbose VERB` says more. A verb ends with 0, with 2 for wrong usage, or with the exit code of its "
        "[error](errors.md).\n"
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
    value = getattr(each.default, "value", each.default)
    default = "" if value is None or value is False or callable(value) else f"`{value}`"
    return names, "required" if each.required else default, getattr(each, "help", "") or ""


def api() -> str:
    """Everything that `import edgevlm` hands on, by the module that it comes from."""
    homes: dict[str, list[str]] = {}
    for name in edgevlm.__all__:
        homes.setdefault(getattr(edgevlm, name).__module__, []).append(name)
    homes.pop(errors.__name__)
    text = "# Python API\n\nEverything that `import edgevlm` hands on; anything else may move between versions. All "
    text += "errors are subclasses of `EdgevlmError`: [errors](errors.md).\n"
    for names in sorted(homes.values(), key=lambda names: (not names[0].startswith("load"), names)):
        for name in names:  # by the full path: `edgevlm.load` is a module, too
            home = getattr(edgevlm, name).__module__
            text += f"\n::: {home}.{name}\n    options: {{heading: edgevlm.{name}, toc_label: {name}}}\n"
    return text


def schema() -> str:
    """The manifest's keys, type by type."""
    schema = json.loads((ROOT / "docs" / SCHEMA).read_text())
    text = "# Manifest schema\n\nGenerated from the types of `edgevlm/manifest`. [The bundle](../bundle.md) says what "
    text += f"each part is for; [{SCHEMA}](../{SCHEMA}) is the JSON schema. Unknown keys are refused.\n"
    kinds = [part["$ref"].rpartition("/")[2] for part in schema["anyOf"]]
    text += f"\nA manifest is, by its task and driver, {_type(schema)}.\n"
    for name, kind in sorted(schema["$defs"].items(), key=lambda item: item[0] not in kinds):
        text += f"\n## {name}\n\n{(kind.get('description') or '').split(chr(10) * 2)[0]}\n\n"
        needed = kind.get("required", ())
        text += table(("key", "type", "default"), (_key(key, part, needed) for key, part in kind["properties"].items()))
    return text


def _key(key: str, part: dict[str, Any], needed: Any) -> tuple[object, ...]:
    default = "required" if key in needed else f"`{json.dumps(part['default'])}`" if "default" in part else ""
    return f"`{key}`", _type(part), default


def _type(part: dict[str, Any]) -> str:
    """A type in words; one of the schema's own is a link to its section."""
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if several := part.get("anyOf") or part.get("oneOf"):
        return " or ".join(map(_type, several))
    if "const" in part:
        return f"`{json.dumps(part['const'])}`"
    if "enum" in part:
        values = [f"`{value}`" for value in part["enum"]]
        return "one of " + ", ".join(values) if len(values) < 12 else "a [unit](../bundle.md#units)"
    kind = str(part.get("type", "anything"))
    if kind == "array":
        items = part.get("prefixItems")
        return f"({', '.join(map(_type, items))})" if items else f"list of {_type(part.get('items', {}))}"
    if kind == "object":
        inner = part.get("additionalProperties")
        return f"name to {_type(inner)}" if isinstance(inner, dict) else "object"
    ends = [f"{sign} {part[key]}" for key, sign in BOUNDS.items() if key in part]
    return " ".join([kind, *([f"({', '.join(ends)})"] if ends else [])])


BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "maxLength": "length ≤"}


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
    """Every parameter of every node, and what a contract adds to those of the gate."""
    text = "# Node parameters\n\nGenerated from the nodes' declarations. A parameter that no node declares is refused, "
    text += "with the nearest name. [ROS 2](../ros.md#limits-of-your-robot) says how the gate uses them.\n"
    head = ("parameter", "default", "range", "meaning")
    for node, items in NODES.items():
        text += f"\n## {node}\n\n" + table(head, (_parameter(item) for item in items))
        if node == "command_gate":
            text += "\nThe contract adds these, for each moving column and for each orientation:\n\n"
            text += table(head, (_parameter(item, name) for name, item in _of_contracts()))
    return text


def _of_contracts() -> Iterator[tuple[str, Any]]:
    """The limits of a moving column and of an orientation, under the names of any."""
    values = json.loads((ROOT / CONFIG).read_text())["contract"]
    hand = values["action"]["groups"][0]
    names = [*hand["names"], "qx", "qy", "qz", "qw"]
    numbers = {key: [*hand[key], *[0.0] * 4] for key in ("lower",)} | {"upper": [*hand["upper"], *[1.0] * 4]}
    numbers |= {"scale": [1.0] * 7, "offset": [0.0] * 7}
    pose = {**hand, "kind": "ee_pose", "rotation": "quaternion_xyzw", "relative_to": "none", "names": names}
    pose |= {"units": [*hand["units"], *["1"] * 4], **numbers}
    contract = Contract.model_validate({**values, "action": {**values["action"], "groups": [pose]}})
    first = f"axes.{hand['names'][0]}."
    for item in contract_items(contract):
        if item.name.startswith(first):
            yield item.name.replace(first, "axes.<name>."), item
        elif item.name.startswith("orientations.0."):
            yield item.name.replace("orientations.0.", "orientations.<i>."), item


def _parameter(item: Any, name: str = "") -> tuple[object, ...]:
    low, high = item.low, item.high
    ends = ["" if end is None else f"{end:g}" for end in (low, high)]
    span = " .. ".join(ends) if any(ends) else ""
    meaning = re.sub(r", of a column in \S+(?=;|$)", "", item.description)
    return f"`{name or item.name}`", f"`{item.default!r}`", span, meaning


def messages() -> str:
    """The definitions of edgevlm_msgs."""
    text = "# Messages\n\nThe interfaces of the package `edgevlm_msgs`.\n"
    for kind in ("msg", "srv", "action"):
        for path in sorted((ROOT / "ros2_ws/src/edgevlm_msgs" / kind).glob(f"*.{kind}")):
            text += f"\n## {path.stem} ({kind})\n\n```text\n{path.read_text().strip()}\n```\n"
    return text
