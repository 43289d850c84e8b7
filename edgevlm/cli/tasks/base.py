"""What the verbs ask of a task: its table, how it is run, how it is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from edgevlm.bundle import Bundle
from edgevlm.manifest.image_ops import ImageOp
from edgevlm.profiler import StepRecorder
from edgevlm.sim.controls import Control
from edgevlm.tasks.generation_config import GenerationOptions

PICTURE_SIZE = (480, 640, 3)  # of a profile's made-up pictures
TEXT_EVERY = 20  # steps of a profile until a model is asked for another text


class Request(NamedTuple):
    """What `edgevlm run` was asked: the values of its options."""

    episodes: int
    seed: int
    commands: tuple[str, ...]
    variant: str
    control: Control
    latency_s: float
    record: Path | None
    strip: Path | None
    images: Sequence[str]
    texts: Sequence[str]
    labels: str | None
    threshold: float
    state: str | None
    features: Path | None
    generation: GenerationOptions


class Way(NamedTuple):
    """One way to run a model: with which options, and what then happens, tables to the console and figures back."""

    options: frozenset[str]  # parameters of the command `run`
    run: Callable[[Console, Any, Request], dict[str, Any]]


class Plan(NamedTuple):
    """What a profile does."""

    steps: int
    warmup: int
    instruction: str | None
    report: Callable[[str, int, int], None]


class Measured(NamedTuple):
    """What a profile of any model says, and what only that of its task does."""

    recorder: StepRecorder
    first_ns: int  # of the first step alone
    more: Mapping[str, Any] = {}


class TaskRow(NamedTuple):
    """One task of the command line.

    Attributes:
        ways: "once", "sim" or "chat" -> how it is run so.
        table: what `inspect` shows besides the stages.
        measure: a profile's steps.
        steps, warmup: of a profile, where nothing else is asked for.
        instructed: whether a profile takes an instruction.
    """

    ways: Mapping[str, Way]
    table: Callable[[Bundle], Table]
    measure: Callable[[Any, Plan], Measured]
    steps: int = 300
    warmup: int = 30
    instructed: bool = True


def measure_steps(plan: Plan, model: Any, question: Callable[[int], Callable[[], object]]) -> Measured:
    """One question in each step; making it is not measured."""
    recorder, first_ns = StepRecorder(), 0
    for step in range(plan.warmup + plan.steps):
        ask = question(step)
        begin = time.perf_counter_ns()
        ask()
        first_ns = time.perf_counter_ns() - begin if step == 0 else first_ns
        if step >= plan.warmup:
            recorder.add(model.last_times_ns)
            plan.report("profile", step - plan.warmup + 1, plan.steps)
    return Measured(recorder, first_ns)


def measure_pictures(plan: Plan, model: Any, ask: Callable[[Any, list[str]], object]) -> Measured:
    """In each step a new picture, with a text that is new every TEXT_EVERY steps."""
    random = np.random.default_rng(0)

    def question(step: int) -> Callable[[], object]:
        picture = random.integers(0, 256, PICTURE_SIZE, np.uint8)
        return partial(ask, picture, [f"a picture of the number {step // TEXT_EVERY}"])

    return measure_steps(plan, model, question)


def operations_table(title: str, operations: Sequence[ImageOp]) -> Table:
    """How pictures are prepared, an operation a row."""
    table = Table("what", "how", title=title, title_justify="left")
    for operation in operations:
        values = {key: value for key, value in operation.model_dump().items() if key != "op"}
        table.add_row(operation.op, ", ".join(f"{key} {value}" for key, value in values.items()))
    return table
