"""What verbs share: tables for people, JSON for machines, progress bars, the packages above the runtime."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table

from edgevlm.atomic import write_file
from edgevlm.engines import Kernels
from edgevlm.errors import OutputError, printable, require
from edgevlm.options import RuntimeOptions

# What the command line reaches above the runtime, resolved when called: name -> (module, extra that brings it).
UPPER = {
    "exporter": ("edgevlm_export.exporter", "export"),
    "quantization": ("edgevlm_export.quantization", "export"),
    "verify": ("edgevlm_export.fidelity.verify", "export"),
    "preflight": ("edgevlm_export.preflight", "export"),
    "calibrate": ("edgevlm_calibration.calibrate", "export"),
}

JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="F|-", help="Also write the figures as JSON to a file, or to standard output."),
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=0, max=1024, help="Threads inside one operator; 0 leaves it to the engine.")
]


class EngineChoice(str, Enum):
    """What --engine takes."""

    AUTO = "auto"
    ORT = "ort"
    OPENVINO = "openvino"


EngineOption = Annotated[
    EngineChoice, typer.Option("--engine", help="What runs the stages; auto takes the first that is installed.")
]


class StampsBy(str, Enum):
    """What --stamps takes."""

    HEADER = "header"
    LOG = "log"


StampsOption = Annotated[
    StampsBy,
    typer.Option(
        "--stamps",
        help="What frames and states of a recording are matched by: the headers' stamps, or the log times where a "
        "driver's clock is wrong.",
    ),
]


def upper(name: str) -> Any:
    """A module of a package above the runtime.

    Raises:
        DependencyError: its packages are not installed.
    """
    module, extra = UPPER[name]
    return require(module, extra=extra)


class Terminal(Console):
    """A console for texts that came from files and messages: it shows control characters and obeys none.

    Square brackets are square brackets: styles are given as arguments, never inside a text.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def people(json_target: str | None) -> Terminal:
    """Where tables go: standard output, or standard error when JSON goes to standard output."""
    return Terminal(stderr=json_target == "-")


def next_step(*words: str | Path, to: str = "") -> None:
    """The line that a verb ends with, on standard error: nothing that a pipe or a JSON reader gets.

    Args:
        to: a file that the shell shall write the output to.
    """
    line = shlex.join(map(str, words)) + (f" > {to}" if to else "")
    Terminal(stderr=True, soft_wrap=True).print(f"next: {line}", style="bold", highlight=False)


def write_error(words: Sequence[str], verb: str | None, error: BaseException) -> None:
    """The error as JSON where `--json` of these words says; its exit code is that of the process.

    A file that cannot be written is not told of again: the error itself is on standard error in any case.
    """
    if (target := _json_target(words)) is None:
        return
    # By name: newer releases of typer bring a click of their own, whose classes are others than click's.
    usage = getattr(error, "format_message", None)
    message = usage() if usage else str(error) or type(error).__name__
    code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
    name = "UsageError" if usage else type(error).__name__
    with suppress(OutputError):
        write_json(target, {"error": {"type": name, "code": code, "message": printable(message), "verb": verb}})


def _json_target(words: Sequence[str]) -> str | None:
    """What the last --json of a command line says; None where it says none."""
    target = None
    for word, after in zip(words, [*words[1:], None], strict=True):
        if word == "--":
            break
        if word == "--json":
            target = after
        elif word.startswith("--json="):
            target = word.partition("=")[2]
    return target


def write_json(target: str | None, figures: Mapping[str, Any]) -> None:
    """Write `figures` where --json says, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    if target is None:
        return
    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    if target == "-":
        typer.echo(text, nl=False)
        return
    write_whole(Path(target), text.encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there complete or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        write_file(path, content)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); free some space or choose another place") from error


class Report(Protocol):
    """Told how far long work is: what is being done, how many of how many are done."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


@contextmanager
def progress(console: Console) -> Iterator[Report]:
    """A bar for each kind of work, on a terminal; silent elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


def latency_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
    """Rows of {"p50", "p95", "p99", "max", "n"}, milliseconds."""
    table = Table(title=title, title_justify="left")
    table.add_column("ms")
    for column in ("p50", "p95", "p99", "max", "n"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:.3f}" for key in ("p50", "p95", "p99", "max")), str(row["n"]))
    return table


def kernel_line(kernels: Mapping[str, Kernels]) -> str:
    """How much of each int8 stage the engine computes in integers."""
    shares = (f"{stage} {each.integer} of {sum(each)}" for stage, each in kernels.items())
    return f"quantized products that run in integers here: {', '.join(shares)}"


def runtime_options(threads: int, engine: EngineChoice) -> RuntimeOptions:
    """The options a verb runs with."""
    return RuntimeOptions(engine=engine.value, intra_threads=threads)
