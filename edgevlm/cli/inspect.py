"""edgevlm inspect: what a bundle is, needs and was measured to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from edgevlm.bundle import Bundle, open_bundle
from edgevlm.cli.output import JsonOption, people, write_json
from edgevlm.manifest.drivers import DecoderArgs
from edgevlm.manifest.image_ops import ImageOp
from edgevlm.manifest.schema import (
    ChatManifest,
    DetectorManifest,
    DialogueManifest,
    DualArgs,
    PolicyManifest,
    Port,
    QuestionManifest,
    RetrieverManifest,
    ScorerManifest,
    Task,
)
from edgevlm.tasks.features import feature_limits

LABELS_SHOWN = 12


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory.")],
    json_target: JsonOption = None,
) -> None:
    """Show a bundle's contract, stages and records. Its files are checked against the manifest first."""
    opened = open_bundle(bundle)
    console = people(json_target)
    _print_head(console, opened)
    console.print(TABLES[opened.manifest.task](opened))
    console.print(_stage_table(opened))
    if records := opened.records():
        console.print(f"records: {', '.join(records)} (see --json)")
    write_json(json_target, figures(opened))


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


def _contract_table(bundle: Bundle) -> Table:
    contract = bundle.manifest.require(PolicyManifest).contract
    table = Table("what", "name", "contract", title="contract", title_justify="left")
    for camera in contract.cameras:
        low, high = camera.rate_hz
        table.add_row(
            "camera",
            camera.name,
            f"{camera.width}x{camera.height} {camera.encoding}, {low:g}-{high:g} Hz, frame {camera.frame_id!r}",
        )
    for field in contract.state.fields if contract.state else ():
        table.add_row("state", field.name, field.unit)
    window = contract.window
    table.add_row(
        "window",
        f"{len(window.offsets_s)} slots",
        f"{list(window.offsets_s)} s, tolerance {window.tolerance_s:g} s, pad {window.pad}",
    )
    action = contract.action
    table.add_row(
        "chunk", f"{action.steps} steps", f"{action.step_s * 1e3:g} ms apart, use {action.execute_steps} of them"
    )
    for group in action.groups:
        limits = ", ".join(
            f"{name} [{low:g}, {high:g}] {unit}"
            for name, unit, low, high in zip(group.names, group.units, group.lower, group.upper, strict=True)
        )
        table.add_row("action", group.kind, limits)
    if contract.plan:
        table.add_row(
            "plan",
            f"{len(contract.plan.waypoint_offsets_s)} waypoints",
            f"at {list(contract.plan.waypoint_offsets_s)} s; steps {', '.join(contract.plan.steps)}",
        )
    if contract.instruction is None:
        table.add_row("say", "", "anything: the model takes no words, an instruction only starts the robot")
    elif examples := contract.instruction.examples:
        table.add_row("say", "for example", "; ".join(examples[:4]))
    return table


def _retriever_table(bundle: Bundle) -> Table:
    manifest = bundle.manifest.require(RetrieverManifest)
    text, args = manifest.text, manifest.driver.args
    table = _operations_table("pictures and texts", manifest.operations)
    length = "filled up to that" if text.length == "fixed" else "as long as they are"
    table.add_row("texts", f"at most {text.max_tokens} tokens, {length}")
    if isinstance(args, DualArgs):
        table.add_row("logits", f"{args.scale:g} * cosine + {args.bias:g}, probabilities by {args.scores}")
    else:
        table.add_row("logits", "yes - no of a head that reads each pair, probabilities of yes")
    return table


def _detector_table(bundle: Bundle) -> Table:
    manifest = bundle.manifest.require(DetectorManifest)
    text, args = manifest.text, manifest.driver.args
    table = _operations_table("pictures and labels", manifest.operations)
    table.add_row("labels", f"at most {text.max_tokens} tokens each")
    regions = next(port for port in bundle.manifest.stages[args.vision].outputs if port.kind == "regions")
    table.add_row("regions", f"{regions.shape[1]} of a picture, one box each, measured by the {args.frame}")
    return table


def _scorer_table(bundle: Bundle) -> Table:
    manifest = bundle.manifest.require(ScorerManifest)
    text, labels, args = manifest.text, manifest.labels, manifest.driver.args
    head = bundle.manifest.stages[args.head]
    port = next(port for port in head.inputs if port.kind == "features")
    low, high, width = feature_limits(head, port.name)
    table = Table("what", "how", title="regions and texts", title_justify="left")
    table.add_row("features", f"float32, {low} to {high} regions of {width} numbers each")
    table.add_row("texts", f"at most {text.max_tokens} tokens")
    more = f" and {len(labels) - LABELS_SHOWN} more" if len(labels) > LABELS_SHOWN else ""
    table.add_row("labels", ", ".join(labels[:LABELS_SHOWN]) + more)
    table.add_row("scores", f"{args.scores} of the logits")
    return table


def _chat_table(bundle: Bundle) -> Table:
    manifest = bundle.manifest.require(ChatManifest)
    args = manifest.driver.args
    table = (
        _question_rows(manifest)
        if isinstance(manifest, QuestionManifest)
        else _prompt_rows(manifest.require(DialogueManifest))
    )
    cache, size = args.cache, 8 * args.cache.layers * args.cache.heads * args.cache.head_dim
    table.add_row("context", f"{cache.slots} tokens, {cache.slots * size / 1e6:.1f} MB of keys and values a session")
    prefix = args.prefix if isinstance(args, DecoderArgs) else "causal"
    once = "in one run" if prefix == "bidirectional" else f"in runs of {args.longest_run}"
    table.add_row("prefix", f"{prefix}, read {once}")
    for port, window in args.masks.items():
        table.add_row(port, "all that came before" if window is None else f"the last {window} tokens")
    table.add_row("stops at", ", ".join(map(str, args.stop_ids)))
    return table


def _prompt_rows(manifest: DialogueManifest) -> Table:
    prompt = manifest.prompt
    table = _operations_table("pictures and prompts", manifest.operations)
    dialogue = "a chat template, which is a program (edgevlm migrate turns it into data)"
    if prompt.dialogue is not None:
        roles = "system, user, assistant" if any(case.system for case in prompt.dialogue.cases) else "user, assistant"
        dialogue = f"a dialogue of {roles}"
    table.add_row("prompt", dialogue if prompt.plain is None else repr(prompt.plain))
    tiles = ", cut into tiles" if prompt.picture.tile else ""
    table.add_row("picture", f"{prompt.picture_tokens} tokens{' a tile' if tiles else ''}{tiles}")
    return table


def _question_rows(manifest: QuestionManifest) -> Table:
    question, args = manifest.question, manifest.driver.args
    table = _operations_table("pictures and questions", manifest.operations)
    reader = "an encoder, beside the picture" if question.reader == "encoder" else "the decoder, which goes on from it"
    needed = "" if question.needs_text else "; may be empty"
    table.add_row("question", f"read by {reader}; at most {question.max_tokens} tokens{needed}")
    table.add_row("begins with", ", ".join(map(str, args.begin)))
    return table


def _operations_table(title: str, operations: Sequence[ImageOp]) -> Table:
    table = Table("what", "how", title=title, title_justify="left")
    for operation in operations:
        values = {key: value for key, value in operation.model_dump().items() if key != "op"}
        table.add_row(operation.op, ", ".join(f"{key} {value}" for key, value in values.items()))
    return table


TABLES: Mapping[Task, Callable[[Bundle], Table]] = {
    "policy": _contract_table,
    "retriever": _retriever_table,
    "chat": _chat_table,
    "detector": _detector_table,
    "scorer": _scorer_table,
}


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
    shown: dict[str, str] = {}
    for port in ports:
        many = kinds[port.kind] > 2 and port.kind.startswith(("past_", "cross_"))
        name = f"{kinds[port.kind]} x {port.kind}" if many else port.name
        shown.setdefault(name, f"{name}{list(port.shape)}")
    return list(shown.values())
