"""edgevlm profile: where the milliseconds of a step go on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edgevlm.cli.output import (
    EngineChoice,
    EngineOption,
    JsonOption,
    ThreadsOption,
    kernel_line,
    latency_table,
    next_step,
    people,
    progress,
    runtime_options,
    write_json,
)
from edgevlm.cli.tasks import ROWS, Plan
from edgevlm.engines import Kernels, pick_engine, quantized_kernels
from edgevlm.load import load
from edgevlm.options import RuntimeOptions
from edgevlm.profiler import machine, peak_rss_mb

STEPS, WARMUP = ROWS["policy"].steps, ROWS["policy"].warmup
QUESTIONS, WARMUP_QUESTIONS = ROWS["chat"].steps, ROWS["chat"].warmup


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory.")],
    steps: Annotated[
        int | None, typer.Option(min=1, help=f"Steps to measure: {STEPS}, or {QUESTIONS} questions of a chat.")
    ] = None,
    warmup: Annotated[
        int | None, typer.Option(min=0, help=f"Steps before, not counted: {WARMUP}, or {WARMUP_QUESTIONS} of a chat.")
    ] = None,
    instruction: Annotated[
        str | None, typer.Option(help="What to say or to ask; the contract's examples in turn if not given.")
    ] = None,
    threads: ThreadsOption = 0,
    engine: EngineOption = EngineChoice.AUTO,
    json_target: JsonOption = None,
) -> None:
    """Measure each stage and the whole step on made-up frames: of the contract's size and slowest rate, or 640x480."""
    console = people(json_target)
    with progress(console) as report:
        figures = measure(bundle, runtime_options(threads, engine), steps, warmup, instruction, report)
    console.print(
        latency_table(
            f"{bundle} in {figures['engine']} on {figures['machine']['cpu']}",
            figures["stages"] | {"step": figures["step_ms"], "overhead": figures["overhead_ms"]},
        )
    )
    if "chat" in figures:
        console.print(latency_table("of an answer", figures["chat"]))
    encodes = f", {figures['encodes_per_frame']:.2f} encodes a frame" if "encodes_per_frame" in figures else ""
    console.print(
        f"cold start {figures['cold_start_ms']:.0f} ms (open {figures['open_ms']:.0f} ms), "
        f"peak memory {figures['peak_rss_mb']:.0f} MB{encodes}"
    )
    if figures["integer_kernels"]:
        console.print(kernel_line({stage: Kernels(**each) for stage, each in figures["integer_kernels"].items()}))
    write_json(json_target, figures)
    next_step("edgevlm", "inspect", bundle)


def measure(
    bundle: Path, options: RuntimeOptions, steps: int | None, warmup: int | None, instruction: str | None, report: Any
) -> dict[str, Any]:
    """The figures of one profile; `overhead_ms` is the step without engine time and preprocess.

    Raises:
        ContractError: the contract has no example instruction and none was given.
        typer.BadParameter: an instruction for a model that is asked a text of the profile's own now and then.
    """
    opening = time.perf_counter_ns()
    model = load(bundle, options)
    open_ns = time.perf_counter_ns() - opening
    manifest = model.bundle.manifest
    row = ROWS[manifest.task]
    if instruction is not None and not row.instructed:
        raise typer.BadParameter(f"--instruction: means nothing to a {manifest.task}, whose texts change; leave it out")
    warmup = row.warmup if warmup is None else warmup
    plan = Plan(row.steps if steps is None else steps, warmup, instruction, report)
    recorder, first_ns, more = row.measure(model, plan)
    rows = recorder.summary()
    peak_mb = peak_rss_mb()  # before the stages are opened once more, to be counted
    kernels = quantized_kernels(model.bundle, options)
    return {
        "bundle_sha256": model.bundle.sha256,
        "precision": manifest.precision,
        "step_ms": rows.pop("step"),
        "overhead_ms": rows.pop("overhead"),
        "stages": rows,
        "integer_kernels": {stage: each._asdict() for stage, each in kernels.items()},
        "warmup_steps": warmup,
        "open_ms": open_ns / 1e6,
        "cold_start_ms": (open_ns + first_ns) / 1e6,
        "peak_rss_mb": peak_mb,
        "engine": pick_engine(options),
        "options": options.model_dump(mode="json"),
        "machine": machine(),
        **more,
    }
