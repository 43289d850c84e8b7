"""edgevlm run: drive a simulated robot with a bundle, or ask it once about a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from edgevlm.cli import chat as chats
from edgevlm.cli import detect, retrieve, score
from edgevlm.cli.options import check_options
from edgevlm.cli.output import (
    JsonOption,
    ThreadsOption,
    latency_table,
    next_step,
    people,
    progress,
    runtime_options,
    write_json,
)
from edgevlm.cli.pictures import Film
from edgevlm.errors import ContractError, SimulatorError, TaskError
from edgevlm.images.encodings import decode
from edgevlm.load import load
from edgevlm.manifest.contract import ActionChunk, Contract, Observation, Stamped
from edgevlm.sim.controls import Control
from edgevlm.sim.episode import EpisodeFrame, EpisodeResult
from edgevlm.sim.evaluation import EvaluationPlan, Watch, evaluate
from edgevlm.sim.simulator import open_simulator
from edgevlm.tasks import Chat, Detector, Policy, Retriever, Scorer
from edgevlm.tasks.detector import THRESHOLD
from edgevlm.tasks.generation_config import GenerationOptions

STRIP_ROWS, STRIP_COLUMNS = 5, 6
FILM_HZ = 10.0

Images = Annotated[
    list[str] | None, typer.Option("--image", metavar="[CAMERA=]F", help="A picture; one for each camera.")
]

Texts = Annotated[
    list[str] | None, typer.Option("--text", help="What to do, or to answer; for a retriever a text, may be repeated.")
]
Labels = Annotated[
    str | None, typer.Option(metavar="A,B,..", help="For a retriever: which of these fits? For a detector: where?")
]
Threshold = Annotated[float, typer.Option(help="Of a detector: only boxes that score more than this, in 0..1.")]
State = Annotated[
    str | None, typer.Option(metavar="NAME=V,..", help="The robot's state, in the units of the contract.")
]
Features = Annotated[
    Path | None, typer.Option(metavar="F.npy", help="For a scorer: float32, a row of features for each region.")
]
Commands = Annotated[
    list[str] | None, typer.Option("--command", help="Only this command; may be given more than once.")
]


def command(
    context: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="A bundle directory.")],
    sim: Annotated[bool, typer.Option("--sim", help="Drive the bundle's simulated robot.")] = False,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes in the simulator, commands in turn.")] = 15,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode, or of a chat's chance.")] = 5_000_000,
    commands: Commands = None,
    variant: Annotated[str, typer.Option(help="A kind of scene that the simulator knows.")] = "plain",
    control: Annotated[Control, typer.Option(help="A negative control.")] = "none",
    latency_ms: Annotated[
        float, typer.Option(min=0, max=60_000, help="Simulated time between a frame and the first use of its chunk.")
    ] = 0.0,
    record: Annotated[Path | None, typer.Option(metavar="F.mp4", help="Film the robot.")] = None,
    strip: Annotated[Path | None, typer.Option(metavar="F.png", help="A picture strip of the first episodes.")] = None,
    image: Images = None,
    text: Texts = None,
    labels: Labels = None,
    threshold: Threshold = THRESHOLD,
    state: State = None,
    features: Features = None,
    chat: Annotated[bool, typer.Option("--chat", help="A dialogue: one question a line on standard input.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer of a chat, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="Of a chat: 0 says the likeliest words.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Of a chat: only the likeliest words, of this share together.")] = 1.0,
    threads: ThreadsOption = 0,
    json_target: JsonOption = None,
) -> None:
    """Closed loop in the simulator (--sim), a dialogue (--chat), or one answer: a plan, scores, boxes, text."""
    _check_way(sim, chat, bool(image or text or features))
    console = people(json_target)
    with load(bundle, runtime_options(threads)) as model:
        _check_task(model, sim, chat)
        check_options(context, "policy in the simulator" if sim else model.bundle.manifest.task)
        if isinstance(model, Chat):
            how = GenerationOptions(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
            figures = chats.serve(console, model, None if chat else (image or [], text or []), how)
        elif isinstance(model, Retriever):
            figures = retrieve.ask(console, model, image or [], text or [], labels)
        elif isinstance(model, Detector):
            figures = detect.ask(console, model, image or [], labels, threshold)
        elif isinstance(model, Scorer):
            figures = score.ask(console, model, features, text or [])
        elif not sim:
            pictures = _pictures(image or [], model.contract)
            figures = ask_once(console, model, pictures, _one_instruction(text), state)
        else:
            plan = _plan(episodes, seed, (tuple(commands or ()), variant, control), latency_ms)
            figures = drive(console, model, plan, record, strip)
    write_json(json_target, figures)
    next_step("edgevlm", "profile", bundle)


def _plan(episodes: int, seed: int, scene: tuple[tuple[str, ...], str, Control], latency_ms: float) -> EvaluationPlan:
    commands, variant, control = scene
    return EvaluationPlan(
        episodes=episodes,
        seed=seed,
        commands=commands,
        variant=variant,
        control=control,
        latency_s=latency_ms / 1e3,
    )


def _check_way(sim: bool, chat: bool, once: bool) -> None:
    if sim + chat + once != 1:
        raise typer.BadParameter(
            "give either --sim, or --chat, or --image F with --text T (for a policy --state NAME=V,..) or --labels "
            "A,B,.. (for a scorer --features F.npy with --text T)"
        )


def _check_task(model: Policy | Retriever | Chat | Detector | Scorer, sim: bool, chat: bool) -> None:
    task, root = model.bundle.manifest.task, model.bundle.root
    if sim and not isinstance(model, Policy):
        raise TaskError(f"{root}: expected a policy to drive a robot, got a {task}; ask it with --image")
    if chat and not isinstance(model, Chat):
        raise TaskError(f"{root}: expected a chat for a dialogue, got a {task}; ask it with --image")


def _one_instruction(texts: list[str] | None) -> str:
    if len(texts or []) > 1:
        raise typer.BadParameter("more than one --text is for retrievers; this bundle is a policy")
    return texts[0] if texts else ""


def drive(
    console: Console, policy: Policy, plan: EvaluationPlan, record: Path | None, strip: Path | None
) -> dict[str, Any]:
    """Run the plan in the bundle's simulator; print the tables, write the film, give the figures."""
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


def _pictures(given: list[str], contract: Contract) -> dict[str, Path]:
    """Camera -> file, from `F` (the only camera) or `CAMERA=F`."""
    names = [camera.name for camera in contract.cameras]
    pictures: dict[str, Path] = {}
    for item in given:
        name, equals, path = item.partition("=")
        if not equals and len(names) == 1:
            name, path = names[0], item
        if name not in names or not path:
            raise typer.BadParameter(f"--image {item!r}: expected CAMERA=FILE with a camera of {names}")
        pictures[name] = Path(path)
    if missing := [name for name in names if name not in pictures]:
        raise typer.BadParameter(f"--image: the cameras {missing} have no picture; give --image CAMERA=FILE for each")
    return pictures


def ask_once(
    console: Console, policy: Policy, pictures: Mapping[str, Path], text: str, state: str | None
) -> dict[str, Any]:
    """One chunk and plan for one picture of each camera; print them, give them as figures."""
    contract = policy.contract
    observation = Observation(
        frames={camera.name: Stamped(_read(pictures[camera.name], camera.encoding), 0) for camera in contract.cameras},
        state=Stamped(_state(contract, state), 0) if contract.state else None,
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


def _read(path: Path, encoding: str) -> Any:
    try:
        return decode(path.read_bytes(), encoding)
    except OSError as error:
        raise ContractError(f"--image {path}: cannot be read ({error.strerror}); give a JPEG or PNG file") from error


def _state(contract: Contract, words: str | None) -> Any:
    """The numbers of `NAME=VALUE,..` in the contract's order. Raises ContractError, typer.BadParameter."""
    assert contract.state is not None
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
    return np.array([values[name] for name in names], np.float32)


def _chunk_table(chunk: ActionChunk) -> Table:
    """A row for each column of the chunk, whatever its length: every number is in the JSON."""
    length_s = chunk.step_s * (len(chunk.values) - 1)
    title = f"chunk: {len(chunk.values)} steps, {chunk.step_s * 1e3:g} ms apart"
    heads = ("column", "unit", "first", f"after {length_s:.3g} s", "lowest", "highest")
    table = Table(*heads, title=title, title_justify="left")
    for column, (name, unit) in enumerate(zip(chunk.names, chunk.units, strict=True)):
        values = chunk.values[:, column]
        shown = (values[0], values[-1], values.min(), values.max())
        table.add_row(name, unit, *(f"{value:.5g}" for value in shown))
    return table
