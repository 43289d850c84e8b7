"""edgevlm replay: a recording through a bundle and the robot's own loop; two bundles are compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from edgevlm.cli.output import (
    EngineChoice,
    EngineOption,
    JsonOption,
    StampsBy,
    StampsOption,
    ThreadsOption,
    latency_table,
    next_step,
    people,
    progress,
    runtime_options,
    write_json,
)
from edgevlm.cli.pictures import ErrorPlot
from edgevlm.data import LogWriter
from edgevlm.data.base import EventStream, ReadOptions
from edgevlm.data.readers import reader
from edgevlm.errors import LogError
from edgevlm.load import load_policy
from edgevlm.loop.matching import MatchSpec
from edgevlm.loop.worker import Acted, Failed
from edgevlm.profiler import StepRecorder, machine
from edgevlm.replay.comparison import Comparison
from edgevlm.replay.published import publish, write_difference, write_stats
from edgevlm.replay.replay import AsFastAsPossible, Lane, Pace, RealTime, Replay, Turn, check_same, replay_spec
from edgevlm.tasks import Policy

WaitOption = Annotated[
    bool,
    typer.Option(
        "--wait-for-state/--no-wait-for-state",
        help="Act on the newest state before a frame, or on the newest that had come, as a node does by default.",
    ),
]


def command(
    recording: Annotated[Path, typer.Argument(metavar="BAG", help="A recording of the robot (MCAP).")],
    bundles: Annotated[
        list[Path], typer.Option("--bundle", metavar="DIR", help="A bundle; two of them are compared, as a and b.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT.mcap", help="The recording to write; an earlier one is replaced."),
    ],
    topics: Annotated[
        Path | None,
        typer.Option(help="YAML that maps the recording's topics to the contract; found if named BAG.topics.yaml."),
    ] = None,
    stamps: StampsOption = StampsBy.HEADER,
    real_time: Annotated[
        bool, typer.Option("--real-time", help="At the recorded times; what a model is too slow for is dropped.")
    ] = False,
    wait_for_state: WaitOption = True,
    plot: Annotated[Path | None, typer.Option(metavar="F.png", help="Draw the error over time of two.")] = None,
    worst: Annotated[int, typer.Option(min=0, max=1000, help="How many of the worst observations to show.")] = 10,
    threads: ThreadsOption = 0,
    engine: EngineOption = EngineChoice.AUTO,
    json_target: JsonOption = None,
) -> None:
    """Feed a recording through a bundle; write its actions and plans; compare two bundles on what one robot saw."""
    _check_usage(recording, bundles, output, plot)
    console = people(json_target)
    with ExitStack() as stack:
        policies = {
            name: stack.enter_context(load_policy(bundle, runtime_options(threads, engine)))
            for name, bundle in zip("ab", bundles, strict=False)
        }
        contract = policies["a"].contract
        if len(policies) == 2:
            check_same(contract, policies["b"].contract)
        stream = reader(recording).events(recording, contract, ReadOptions(topics, stamps.value))
        pace: Pace = RealTime(stream.first_ns) if real_time else AsFastAsPossible()
        spec = replay_spec(contract, wait_for_state=wait_for_state)
        job = Job(policies, stream, pace, spec, timed=real_time, worst=worst)
        with LogWriter(output, log_clock=pace.now_ns) as log, progress(console) as report:
            job.run(log, report)
            job.check(recording)
    figures = {"recording": str(recording), "stamps": stamps.value, "output": str(output), **job.figures(bundles)}
    show(console, figures)
    if plot is not None and job.comparison is not None:
        draw(plot, job.comparison, bundles)
    console.print("\n".join(str(path) for path in (plot, output) if path), style="bold green")
    write_json(json_target, figures)
    next_step("edgevlm", "profile", bundles[-1])


def _check_usage(recording: Path, bundles: list[Path], output: Path, plot: Path | None) -> None:
    if not 1 <= len(bundles) <= 2:
        raise typer.BadParameter(f"give --bundle once, or twice to compare; got {len(bundles)}")
    if plot is not None and len(bundles) != 2:
        raise typer.BadParameter("--plot draws the difference of two bundles; give --bundle twice")
    if output.resolve() == recording.resolve():
        raise typer.BadParameter("--output names the recording itself; give another file")


@dataclass
class Job:
    """One replay and what is counted on the way."""

    policies: dict[str, Policy]
    stream: EventStream
    pace: Pace
    spec: MatchSpec
    timed: bool
    worst: int
    comparison: Comparison | None = None
    _recorders: dict[str, StepRecorder] = field(default_factory=dict)
    _errors: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        contract = self.policies["a"].contract
        if len(self.policies) == 2:
            self.comparison = Comparison(contract, self.worst)
        self._recorders = {name: StepRecorder() for name in self.policies}
        sessions = {name: policy.session() for name, policy in self.policies.items()}
        self.replay = Replay(contract, sessions, self.pace, spec=self.spec, stamps_are_time=self.stream.stamps_are_time)

    def run(self, log: LogWriter, report: Any) -> None:
        """Go through the recording and write what comes."""
        for policy in self.policies.values():
            policy.warm_up()
        done = iter(range(1, len(self.stream) + 1))
        for turn in self.replay.run(self.stream, lambda: report("replay", next(done, 0), len(self.stream))):
            self._take(turn, log)

    def _take(self, turn: Turn, log: LogWriter) -> None:
        policy = self.policies[turn.lane]
        publish(log, f"/{turn.lane}", turn.outcome, policy.contract, policy.bundle.sha256)
        write_stats(log, f"/{turn.lane}", turn.outcome, turn.counts, timed=self.timed)
        if isinstance(turn.outcome, Failed):
            self._errors.setdefault(turn.lane, f"{type(turn.outcome.error).__name__}: {turn.outcome.error}")
        elif isinstance(turn.outcome, Acted) and not turn.outcome.times.warm_up:
            self._recorders[turn.lane].add(turn.outcome.stages_ns)
        apart = self.comparison.add(turn) if self.comparison else None
        if apart is not None:
            write_difference(log, apart.stamp_ns, policy.contract.action.names, apart.errors)

    def check(self, recording: Path) -> None:
        """Refuse a replay in which a bundle never acted.

        Raises:
            LogError: which one, and why as far as it is known.
        """
        for lane in self.replay.lanes:
            if not lane.worker.counts["acted"]:
                counts = {**lane.counts(), "without_instruction": lane.worker.counts["idle"]}
                raise LogError(
                    f"{recording}: bundle {lane.name} acted on nothing: {counts}; {'; '.join(self._reasons(lane))}"
                )

    def _reasons(self, lane: Lane) -> list[str]:
        """Why a bundle never acted: what failed, or what was missing where."""
        if lane.name in self._errors:
            return [self._errors[lane.name]]
        return [lane.why_idle(), *self.stream.warnings]

    def figures(self, bundles: list[Path]) -> dict[str, Any]:
        """Everything that was counted and timed."""
        rows = {}
        for lane, path in zip(self.replay.lanes, bundles, strict=True):
            policy, recorder = self.policies[lane.name], self._recorders[lane.name].summary()
            rows[lane.name] = {
                "bundle": str(path),
                "bundle_sha256": policy.bundle.sha256,
                "precision": policy.bundle.manifest.precision,
                **lane.counts(),
                "without_instruction": lane.worker.counts["idle"],
                "matching": dict(sorted(lane.matcher.counts.items())),
                "first_error": self._errors.get(lane.name, ""),
                "step_ms": recorder.pop("step", latency_of_nothing()),
                "stages": recorder,
            }
        return {
            "real_time": self.timed,
            "recorded_s": (self.stream.last_ns - self.stream.first_ns) / 1e9,
            "warnings": list(self.stream.warnings),
            "bundles": rows,
            "difference": self.comparison.to_json() if self.comparison else None,
            "machine": machine(),
        }


def latency_of_nothing() -> dict[str, float | int]:
    """The row of a step that was never timed."""
    return {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0, "n": 0}


def show(console: Console, figures: dict[str, Any]) -> None:
    """The figures as tables."""
    for warning in figures["warnings"]:
        console.print(warning, style="yellow")
    table = Table(title="replay", title_justify="left")
    table.add_column("")
    table.add_column("bundle", overflow="fold")
    for heading in ("precision", "acted", "failed", "dropped", "frames", "refused"):
        table.add_column(heading)
    for name, row in figures["bundles"].items():
        counted = [row[key] for key in ("acted", "failed", "observations_dropped", "frames_received", "frames_dropped")]
        table.add_row(name, row["bundle"], row["precision"], *map(str, counted))
    console.print(table)
    console.print(latency_table("a step", {name: row["step_ms"] for name, row in figures["bundles"].items()}))
    for name, row in figures["bundles"].items():
        if row["first_error"]:
            console.print(f"{name}: the first of {row['failed']} failed steps: {row['first_error']}", style="yellow")
    if figures["difference"]:
        _show_difference(console, figures["difference"])


def _show_difference(console: Console, difference: dict[str, Any]) -> None:
    console.print(f"|a - b| over {difference['observations']} observations, the worst row of each chunk:")
    table = Table("column", "unit", "mean", "p99", "max")
    for name, row in difference["columns"].items():
        table.add_row(name, row["unit"], *(f"{row[key]:.3g}" for key in ("mean", "p99", "max")))
    console.print(table)
    if any(difference["alone"].values()):
        console.print(f"only one of them acted on: {difference['alone']}")
    if not difference["worst"]:
        return
    table = Table(title="furthest apart", title_justify="left")
    table.add_column("stamp", no_wrap=True)
    table.add_column("instruction")
    table.add_column("column", no_wrap=True)
    for heading in ("row", "a", "b", "error", "unit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in difference["worst"]:
        texts = [f"{row['stamp_ns'] / 1e9:.3f}", row["instruction"], row["column"], str(row["row"])]
        values = [f"{row[key]:.3g}" for key in ("a", "b", "error")]
        table.add_row(*texts, *values, row["unit"])
    console.print(table)


def draw(path: Path, comparison: Comparison, bundles: list[Path]) -> None:
    """The difference over time as a PNG."""
    apart = comparison.apart
    columns = [(name, row["unit"]) for name, row in comparison.columns().items()]
    errors = np.array([one.errors for one in apart]).reshape(-1, len(columns))
    changes = list(_changes([(one.stamp_ns, one.instruction) for one in apart]))
    figure = ErrorPlot([one.stamp_ns for one in apart], errors, changes)
    figure.write(path, f"|a - b|, actions:  a = {bundles[0].name}   b = {bundles[1].name}", columns)


def _changes(instructions: list[tuple[int, str]]) -> Iterator[int]:
    for (_, before), (stamp_ns, now) in pairwise(instructions):
        if before != now:
            yield stamp_ns
