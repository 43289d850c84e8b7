"""edgevlm profile: where the milliseconds of a step go on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from edgevlm.cli.output import JsonOption, ThreadsOption, latency_table, people, progress, runtime_options, write_json
from edgevlm.errors import ContractError
from edgevlm.load import load
from edgevlm.options import RuntimeOptions
from edgevlm.profiler import StepRecorder, machine, peak_rss_mb, summarize
from edgevlm.sim.synthetic import synthetic_observations
from edgevlm.tasks import Chat, Detector, Policy, Retriever, Scorer

PICTURE_SIZE = (480, 640, 3)
TEXT_EVERY = 20  # steps until a retriever or a detector is asked for another text
STEPS, WARMUP = 300, 30
QUESTIONS, WARMUP_QUESTIONS = 10, 1  # of a chat, whose steps are hundreds of times longer
ANSWER_TOKENS = 16
REGIONS = 36  # of a scorer, made up

Asked = Retriever | Detector | Scorer


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
    json_target: JsonOption = None,
) -> None:
    """Measure each stage and the whole step on made-up frames: of the contract's size and slowest rate, or 640x480."""
    console = people(json_target)
    with progress(console) as report:
        figures = measure(bundle, runtime_options(threads), steps, warmup, instruction, report)
    console.print(
        latency_table(
            f"{bundle} on {figures['machine']['cpu']}",
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
    write_json(json_target, figures)


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
    opened = time.perf_counter_ns()
    if instruction is not None and isinstance(model, (Retriever, Detector)):
        task = model.bundle.manifest.task
        raise typer.BadParameter(f"--instruction: means nothing to a {task}, whose texts change; leave it out")
    usual = (QUESTIONS, WARMUP_QUESTIONS) if isinstance(model, Chat) else (STEPS, WARMUP)
    steps, warmup = usual[0] if steps is None else steps, usual[1] if warmup is None else warmup
    if isinstance(model, Chat):
        return _measure_chat(model, options, (steps, warmup, instruction), opened - opening, report)
    if isinstance(model, (Retriever, Detector, Scorer)):
        return _measure_asked(model, options, (steps, warmup, instruction), opened - opening, report)
    return _measure_policy(model, options, (steps, warmup, instruction), opened - opening, report)


def _measure_policy(
    policy: Policy, options: RuntimeOptions, plan: tuple[int, int, str | None], open_ns: int, report: Any
) -> dict[str, Any]:
    steps, warmup, instruction = plan
    said = policy.contract.instruction
    examples = (instruction,) if instruction else ("",) if said is None else said.examples
    if not examples:
        raise ContractError("the contract has no example instruction; pass one that the model knows with --instruction")
    source = synthetic_observations(policy.contract, examples, seed=0)
    session = policy.session()
    first = next(source)
    made = time.perf_counter_ns()
    session.act(first)
    cold_ns = open_ns + (time.perf_counter_ns() - made)
    recorder = StepRecorder()
    for step in range(warmup + steps):
        session.act(next(source))
        if step >= warmup:
            recorder.add(session.last_times_ns)
            report("profile", step - warmup + 1, steps)
    figures = _figures(policy, recorder, options, warmup, (open_ns, cold_ns))
    return {**figures, "encodes_per_frame": session.encodes_per_frame}


def _measure_asked(
    model: Asked, options: RuntimeOptions, plan: tuple[int, int, str | None], open_ns: int, report: Any
) -> dict[str, Any]:
    """One question in each step, about something new."""
    steps, warmup, question = plan
    random = np.random.default_rng(0)
    recorder, cold_ns = StepRecorder(), open_ns
    for step in range(warmup + steps):
        ask = _question(model, step, random, question)
        begin = time.perf_counter_ns()
        ask()
        cold_ns += time.perf_counter_ns() - begin if step == 0 else 0
        if step >= warmup:
            recorder.add(model.last_times_ns)
            report("profile", step - warmup + 1, steps)
    return _figures(model, recorder, options, warmup, (open_ns, cold_ns))


def _question(model: Asked, step: int, random: np.random.Generator, said: str | None) -> Callable[[], object]:
    """A new picture and a text that is new every TEXT_EVERY steps; or new regions and what was said."""
    if isinstance(model, Scorer):
        features = random.standard_normal((min(REGIONS, model.most_regions), model.width), np.float32)
        return partial(model.score, features, said or "What can be seen here?")
    picture, text = random.integers(0, 256, PICTURE_SIZE, np.uint8), f"a picture of the number {step // TEXT_EVERY}"
    return (
        partial(model.match, [picture], [text])
        if isinstance(model, Retriever)
        else partial(model.detect, picture, [text])
    )


def _measure_chat(
    model: Chat, options: RuntimeOptions, plan: tuple[int, int, str | None], open_ns: int, report: Any
) -> dict[str, Any]:
    """In each step a question about a new picture, whose stages are shown, and another one about the same picture."""
    steps, warmup, question = plan
    usual = "What can be seen here?" if model.needs_text else ""
    random = np.random.default_rng(0)
    recorder, cold_ns = StepRecorder(), open_ns
    firsts: dict[str, list[int]] = {"first token": [], "first token, same picture": [], "next token": []}
    for step in range(warmup + steps):
        picture = random.integers(0, 256, PICTURE_SIZE, np.uint8)
        begin = time.perf_counter_ns()
        new = model.ask(picture, usual if question is None else question, max_new_tokens=ANSWER_TOKENS)
        cold_ns += time.perf_counter_ns() - begin if step == 0 else 0
        if step >= warmup:
            recorder.add(new.times_ns)
        same = model.ask(picture, "Is anything in the way?", max_new_tokens=1)
        if step >= warmup:
            first_ns = round(new.first_token_s * 1e9)
            firsts["first token"].append(first_ns)
            firsts["first token, same picture"].append(round(same.first_token_s * 1e9))
            if len(new.token_ids) > 1:
                firsts["next token"].append((new.times_ns["step"] - first_ns) // (len(new.token_ids) - 1))
            report("profile", step - warmup + 1, steps)
    figures = _figures(model, recorder, options, warmup, (open_ns, cold_ns))
    return {**figures, "chat": {name: summarize(durations) for name, durations in firsts.items()}}


def _figures(
    model: Policy | Retriever | Chat | Detector | Scorer,
    recorder: StepRecorder,
    options: RuntimeOptions,
    warmup: int,
    start_ns: tuple[int, int],
) -> dict[str, Any]:
    """What a profile of any model says; `start_ns` is the time to open it, and the same with the first step."""
    rows = recorder.summary()
    return {
        "bundle_sha256": model.bundle.sha256,
        "precision": model.bundle.manifest.precision,
        "step_ms": rows.pop("step"),
        "overhead_ms": rows.pop("overhead"),
        "stages": rows,
        "warmup_steps": warmup,
        "open_ms": start_ns[0] / 1e6,
        "cold_start_ms": start_ns[1] / 1e6,
        "peak_rss_mb": peak_rss_mb(),
        "options": options.model_dump(mode="json"),
        "machine": machine(),
    }
