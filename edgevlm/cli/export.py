"""edgevlm export: a checkpoint -> a bundle that was proven against it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from edgevlm.cli.output import (
    JsonOption,
    StampsBy,
    StampsOption,
    kernel_line,
    next_step,
    people,
    progress,
    upper,
    write_json,
)
from edgevlm.manifest.schema import Precision

SourceArgument = Annotated[
    str,
    typer.Argument(
        help="A checkpoint directory, or a model of the Hugging Face hub: org/name or org/name@revision, which is "
        "downloaded into the hub's own cache (HF_HUB_CACHE, HF_TOKEN and HF_HUB_OFFLINE are heeded)."
    ),
]
CalibOption = Annotated[
    Path | None,
    typer.Option(
        help="For a policy a recording of the robot (MCAP) or a table made by edgevlm calibrate; for a model of "
        "pictures and texts a folder of JPEG and PNG files, for one that scores regions of .npy files (every third one "
        "judges, the others calibrate)."
    ),
]
TopicsOption = Annotated[
    Path | None,
    typer.Option(
        help="YAML that maps the recording's topics to the contract; found beside the log if named LOG.topics.yaml."
    ),
]


def command(
    source: SourceArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The bundle to write; an earlier bundle there is replaced.")
    ],
    precision: Annotated[Precision, typer.Option(help="Of every stage that can have it.")] = "fp32",
    int8: Annotated[bool, typer.Option("--int8", help="Short for --precision int8; needs --calib.")] = False,
    calib: CalibOption = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="One text a line, for a model of pictures and texts; 30 built-in ones if not given."),
    ] = None,
    topics: TopicsOption = None,
    stamps: StampsOption = StampsBy.HEADER,
    samples: Annotated[int, typer.Option(min=1, help="Steps of the recording, or pictures, to use.")] = 256,
    robot: Annotated[Path | None, typer.Option(help="Of some policies; `edgevlm robot` prints one.")] = None,
    context: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens that a chat shall hold, prompt and answer; 2048 or the model's own limit."),
    ] = None,
    json_target: JsonOption = None,
) -> None:
    """Trace the model's stages, quantize them from a recording, and prove the bundle on held-out episodes."""
    precision = "int8" if int8 else precision
    if calib is None and (int8 or upper("quantization").QUANTIZERS[precision].needs_table):
        raise typer.BadParameter(
            f"{precision} needs --calib LOG.mcap (a recording of the robot), a calibration table, or a folder of "
            "pictures"
        )
    console = people(json_target)
    with progress(console) as report:
        done = upper("exporter").export(
            source,
            output,
            precision=precision,
            calibration=calib,
            topics=topics,
            stamps=stamps.value,
            texts=texts,
            samples=samples,
            robot=robot,
            context=context,
            progress=report,
        )
    _print_done(console, done)
    console.print(f"{output}  sha256 {done.bundle_sha256[:16]}")
    write_json(json_target, done.to_json())
    next_step("edgevlm", "inspect", output)


def _print_done(console: Console, done: Any) -> None:
    print_fidelity(console, done.fidelity)
    if done.integer_kernels:
        console.print(kernel_line(done.integer_kernels))
    for warning in done.warnings:
        console.print(f"note: {warning}", style="yellow")


def print_fidelity(console: Console, fidelity: dict[str, Any]) -> None:
    """The figures of records/fidelity.json as tables; a title says what was compared with, and on which inputs."""
    against = _against(fidelity)
    table = Table("stage", "form", "cosine (worst)", "max abs error", title=f"stages {against}", title_justify="left")
    for row in fidelity["stages"]:
        table.add_row(row["stage"], row["form"], f"{row['cosine_min']:.6f}", f"{row['max_abs_error']:.3g}")
    console.print(table)
    if note := fidelity["data"].get("note"):
        console.print(note, style="yellow")
    if "retrieval" in fidelity:
        console.print(_retrieval_table(fidelity))
        return
    if "scoring" in fidelity:
        console.print(_scoring_table(fidelity))
        return
    if "detection" in fidelity:
        console.print(_detection_table(fidelity))
        return
    if "chat" in fidelity:
        console.print(_chat_table(fidelity))
        return
    table = Table(
        "column", "form", "unit", "mean", "p99", "worst", title=f"the whole policy {against}", title_justify="left"
    )
    for row in fidelity["pipeline"]:
        table.add_row(
            row["name"], row["form"], row["unit"], f"{row['mean']:.3g}", f"{row['p99']:.3g}", f"{row['worst']:.3g}"
        )
    console.print(table)


def _against(fidelity: dict[str, Any]) -> str:
    reference = "PyTorch" if fidelity["against"]["kind"] == "checkpoint" else "the other bundle"
    if fidelity["data"]["kind"] != "synthetic":
        return f"against {reference}"
    inputs = "frames" if "pipeline" in fidelity else "features" if "scoring" in fidelity else "pictures"
    return f"against {reference}, on made-up {inputs}"


def _retrieval_table(fidelity: dict[str, Any]) -> Table:
    columns = ("form", "picture cosine (worst)", "text cosine (worst)", "logit error / scale", "same best text")
    table = Table(*columns, title=f"the whole model {_against(fidelity)}", title_justify="left")
    for row in fidelity["retrieval"]:
        cosines = f"{row['image_cosine_min']:.6f}", f"{row['text_cosine_min']:.6f}"
        table.add_row(row["form"], *cosines, f"{row['logit_relative_error']:.3g}", f"{row['same_best_text']:.1%}")
    return table


def _scoring_table(fidelity: dict[str, Any]) -> Table:
    columns = ("form", "logit error / scale", "logit cosine (of what varies)", "same best label")
    table = Table(*columns, title=f"the whole model {_against(fidelity)}", title_justify="left")
    for row in fidelity["scoring"]:
        error, cosine = f"{row['logit_relative_error']:.3g}", f"{row['logit_centred_cosine']:.6f}"
        table.add_row(row["form"], error, cosine, f"{row['same_best_label']:.1%}")
    return table


def _detection_table(fidelity: dict[str, Any]) -> Table:
    columns = ("form", "logit error / scale", "box error / side", "box overlap (mean, worst 5 %)", "same best label")
    table = Table(*columns, title=f"the whole model {_against(fidelity)}", title_justify="left")
    for row in fidelity["detection"]:
        errors = f"{row['logit_relative_error']:.3g}", f"{row['box_max_abs_error']:.3g}"
        overlap = f"{row['box_iou_mean']:.4f}, {row['box_iou_p05']:.4f}"
        table.add_row(row["form"], *errors, overlap, f"{row['same_best_label']:.1%}")
    return table


def _chat_table(fidelity: dict[str, Any]) -> Table:
    columns = ("form", "logit error / scale", "logit cosine (worst)", "same next word", "same answers")
    table = Table(*columns, title=f"the whole model {_against(fidelity)}", title_justify="left")
    for row in fidelity["chat"]:
        cosine, answers = f"{row['logit_cosine_min']:.6f}", f"{row['same_answers']} of {row['answers']}"
        same = f"{row['same_next_word']:.1%}"
        table.add_row(row["form"], f"{row['logit_relative_error']:.3g}", cosine, same, answers)
    return table
