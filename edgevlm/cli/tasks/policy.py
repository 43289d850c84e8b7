"""A policy on the command line: in its simulator, or asked once about a picture of each camera."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from edgevlm.bundle import Bundle
from edgevlm.cli.output import latency_table, progress
from edgevlm.cli.pictures import Film
from edgevlm.cli.tasks.base import Measured, Plan, Request, TaskRow, Way
from edgevlm.errors import ContractError, SimulatorError
from edgevlm.images.encodings import decode
from edgevlm.manifest.contract import ActionChunk, Contract, Observation, Stamped
from edgevlm.manifest.schema import PolicyManifest
from edgevlm.profiler import StepRecorder, synthetic_observations
from edgevlm.sim.episode import EpisodeFrame, EpisodeResult
from edgevlm.sim.evaluation import EvaluationPlan, Watch, evaluate
from edgevlm.sim.simulator import open_simulator
from edgevlm.tasks import Policy

STRIP_ROWS, STRIP_COLUMNS = 5, 6
FILM_HZ = 10.0


def _drive(console: Console, policy: Policy, request: Request) -> dict[str, Any]:
    """Run episodes in the bundle's simulator; print the tables, write the film, give the figures."""
    plan = EvaluationPlan(
        episodes=request.episodes,
        seed=request.seed,
        commands=request.commands,
        variant=request.variant,
        control=request.control,
        latency_s=request.latency_s,
    )
    record, strip = request.record, request.strip
    name = policy.bundle.manifest.extensions.get("simulator")
    if not isinstance(name, str):
        raise SimulatorError(
            f"{policy.bundle.root}: the bundle names no simulator; run it with --image, --text and --state"
        )
    simulator = open_simulator(name)
    film = _Filmed() if record or strip else None
    try:
        with progress(console) as report:

            def done(result: EpisodeResult) -> None:
                done_episodes.append(result)
                report("episodes", len(done_episodes), plan.episodes)

            done_episodes: list[EpisodeResult] = []
            figures = evaluate(policy, simulator, plan, Watch(progress=done, on_frame=film)).to_json()
    finally:
        simulator.close()
    if film and record:
        film.film.write_video(record, FILM_HZ)
    if film and strip:
        film.film.write_strip(strip, rows=STRIP_ROWS, columns=STRIP_COLUMNS)
    _print_success(console, figures)
    console.print(latency_table("latency of a step", {"step": figures["step_ms"]}))
    return figures


class _Filmed:
    """The frame hook that captions frames and hands them to a film."""

    def __init__(self) -> None:
        self.film = Film()
        self._spec: object = None

    def __call__(self, frame: EpisodeFrame) -> None:
        if frame.spec is not self._spec:
            self._spec = frame.spec
            self.film.begin()
        doing = f"plan: {frame.plan.step}" if frame.plan else ""
        self.film.add(frame.image, f'"{frame.instruction}"', doing)


def _print_success(console: Console, figures: Mapping[str, Any]) -> None:
    table = Table("command", "done", "of", title="success", title_justify="left")
    for name, row in figures["per_command"].items():
        table.add_row(name, str(row["successes"]), str(row["episodes"]))
    table.add_section()
    table.add_row("all", str(figures["successes"]), str(figures["episodes"]))
    console.print(table)
    rate = f"{figures['success_rate']:.1%} success, {figures['encodes_per_frame']:.2f} image encodes a sampled frame"
    if "given" in figures:
        rate += f", {figures['given']['success_rate']:.1%} on the command given"
    console.print(rate)
    for column, change in figures.get("action_change", {}).items():
        console.print(f"{column}: changed by {change['mean_abs_change']:.3g} of {change['mean_abs_plain']:.3g}")


def _ask(console: Console, policy: Policy, request: Request) -> dict[str, Any]:
    """One chunk and plan for one picture of each camera; print them, give them as figures."""
    contract = policy.contract
    pictures, text = _pictures(request.images, contract), _one_instruction(request.texts)
    observation = Observation(
        frames={camera.name: Stamped(_read(pictures[camera.name], camera.encoding), 0) for camera in contract.cameras},
        state=_state(contract, request.state),
        instruction=text,
    )
    chunk = policy.act(observation)
    console.print(_chunk_table(chunk))
    figures: dict[str, Any] = {
        "names": chunk.names,
        "units": chunk.units,
        "step_s": chunk.step_s,
        "values": chunk.values.tolist(),
        "bundle_sha256": policy.bundle.sha256,
    }
    if chunk.plan:
        points = ", ".join(f"({', '.join(f'{v:.3f}' for v in point)})" for point in chunk.plan.waypoints)
        console.print(
            f"step: {chunk.plan.step} ({chunk.plan.confidence.max():.0%}); waypoints {chunk.plan.names}: {points}"
        )
        figures["plan"] = {
            "step": chunk.plan.step,
            "confidence": dict(zip(chunk.plan.steps, chunk.plan.confidence.tolist(), strict=True)),
            "waypoints": chunk.plan.waypoints.tolist(),
            "waypoint_offsets_s": contract.plan.waypoint_offsets_s if contract.plan else (),
        }
    return figures


def _one_instruction(texts: Sequence[str]) -> str:
    if len(texts) > 1:
        raise typer.BadParameter("more than one --text is for retrievers; this bundle is a policy")
    return texts[0] if texts else ""


def _pictures(images: Sequence[str], contract: Contract) -> dict[str, Path]:
    """Camera -> file, from `F` (the only camera) or `CAMERA=F`."""
    names = [camera.name for camera in contract.cameras]
    pictures: dict[str, Path] = {}
    for item in images:
        name, equals, path = item.partition("=")
        if not equals and len(names) == 1:
            name, path = names[0], item
        if name not in names or not path:
            raise typer.BadParameter(f"--image {item!r}: expected CAMERA=FILE with a camera of {names}")
        pictures[name] = Path(path)
    if missing := [name for name in names if name not in pictures]:
        raise typer.BadParameter(f"--image: the cameras {missing} have no picture; give --image CAMERA=FILE for each")
    return pictures


def _read(path: Path, encoding: str) -> Any:
    try:
        return decode(path.read_bytes(), encoding)
    except OSError as error:
        raise ContractError(f"--image {path}: cannot be read ({error.strerror}); give a JPEG or PNG file") from error


def _state(contract: Contract, words: str | None) -> Stamped[Any] | None:
    """The numbers of `NAME=VALUE,..` in the contract's order. Raises ContractError, typer.BadParameter."""
    if contract.state is None:
        if words is not None:
            raise typer.BadParameter("--state: this policy reads no state; leave it out")
        return None
    names, example = contract.state.names, ",".join(f"{name}=V" for name in contract.state.names)
    if words is None:
        raise typer.BadParameter(f"--state: expected {example}, got none")
    values: dict[str, float] = {}
    for part in words.split(","):
        name, _, number = part.partition("=")
        try:
            value = float(number)
        except ValueError as error:
            raise typer.BadParameter(f"--state: expected {example}, got {part!r}") from error
        if name.strip() in values:
            raise typer.BadParameter(f"--state: expected each name once, got {name.strip()!r} again")
        values[name.strip()] = value
    if set(values) != set(names):
        missing, strange = [name for name in names if name not in values], sorted(set(values) - set(names))
        raise ContractError(f"--state: expected {example}; missing: {missing}, not in the contract: {strange}")
    return Stamped(np.array([values[name] for name in names], np.float32), 0)


def _chunk_table(chunk: ActionChunk) -> Table:
    """A row for each column of the chunk, whatever its length: every number is in the JSON."""
    length_s = chunk.step_s * (len(chunk.values) - 1)
    title = f"chunk: {len(chunk.values)} steps, {chunk.step_s * 1e3:g} ms apart"
    heads = ("column", "unit", "first", f"after {length_s:.3g} s", "lowest", "highest")
    table = Table(*heads, title=title, title_justify="left")
    for column, (name, unit) in enumerate(zip(chunk.names, chunk.units, strict=True)):
        values = chunk.values[:, column]
        row = (values[0], values[-1], values.min(), values.max())
        table.add_row(name, unit, *(f"{value:.5g}" for value in row))
    return table


def _table(bundle: Bundle) -> Table:
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


def _measure(policy: Policy, plan: Plan) -> Measured:
    steps, warmup, instruction, report = plan
    spec = policy.contract.instruction
    examples = (instruction,) if instruction else ("",) if spec is None else spec.examples
    if not examples:
        raise ContractError("the contract has no example instruction; pass one that the model knows with --instruction")
    source = synthetic_observations(policy.contract, examples, seed=0)
    session = policy.session()
    first = next(source)
    begin = time.perf_counter_ns()
    session.act(first)
    first_ns = time.perf_counter_ns() - begin
    recorder = StepRecorder()
    for step in range(warmup + steps):
        session.act(next(source))
        if step >= warmup:
            recorder.add(session.last_times_ns)
            report("profile", step - warmup + 1, steps)
    return Measured(recorder, first_ns, {"encodes_per_frame": session.encodes_per_frame})


_SIMULATION = frozenset({"episodes", "seed", "commands", "variant", "control", "latency_ms", "record", "strip"})
POLICY = TaskRow(
    ways={"once": Way(frozenset({"image", "text", "state"}), _ask), "sim": Way(_SIMULATION, _drive)},
    table=_table,
    measure=_measure,
)
