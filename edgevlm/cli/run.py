"""edgevlm run: drive a simulated robot with a bundle, or ask it once about a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevlm.bundle import Bundle
from edgevlm.cli.output import (
    EngineChoice,
    EngineOption,
    JsonOption,
    ThreadsOption,
    next_step,
    people,
    runtime_options,
    write_json,
)
from edgevlm.cli.tasks import ROWS, Request, Way
from edgevlm.errors import TaskError
from edgevlm.load import load
from edgevlm.sim.controls import Control
from edgevlm.tasks.detector import THRESHOLD
from edgevlm.tasks.generation_config import GenerationOptions

ALWAYS = frozenset(
    {"bundle", "threads", "engine", "json_target", "sim", "chat"}
)  # options that mean something to every model

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
    engine: EngineOption = EngineChoice.AUTO,
    json_target: JsonOption = None,
) -> None:
    """Closed loop in the simulator (--sim), a dialogue (--chat), or one answer: a plan, scores, boxes, text."""
    way = _way(sim, chat, bool(image or text or features))
    request = Request(
        episodes=episodes,
        seed=seed,
        commands=tuple(commands or ()),
        variant=variant,
        control=control,
        latency_s=latency_ms / 1e3,
        record=record,
        strip=strip,
        images=image or [],
        texts=text or [],
        labels=labels,
        threshold=threshold,
        state=state,
        features=features,
        generation=GenerationOptions(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed),
    )
    with load(bundle, runtime_options(threads, engine)) as model:
        write_json(json_target, _chosen(context, model.bundle, way).run(people(json_target), model, request))
    next_step("edgevlm", "profile", bundle)


def _way(sim: bool, chat: bool, once: bool) -> str:
    if sim + chat + once != 1:
        raise typer.BadParameter(
            "give either --sim, or --chat, or --image F with --text T (for a policy --state NAME=V,..) or --labels "
            "A,B,.. (for a scorer --features F.npy with --text T)"
        )
    return "sim" if sim else "chat" if chat else "once"


def _chosen(context: typer.Context, bundle: Bundle, way: str) -> Way:
    """How this bundle is run so. Raises TaskError, and typer.BadParameter for options that mean nothing to it."""
    task = bundle.manifest.task
    ways = ROWS[task].ways
    if way not in ways:
        fitting = " or ".join(name for name, row in ROWS.items() if way in row.ways)
        raise TaskError(f"{bundle.root}: expected a {fitting} for --{way}, got a {task}; ask it with --image")
    flags = {param.name: param.opts[0] for param in context.command.params if param.name}
    sources = {name: context.get_parameter_source(name) for name in flags}
    # By name: newer releases of typer bring a click of their own, whose enumeration is another one than click's.
    named = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    options = ways[way].options
    if strange := [flags[name] for name in named if name not in options | ALWAYS]:
        takes = ", ".join(flags[name] for name in flags if name in options)
        use = task if way == "once" else f"{task} with --{way}"
        raise typer.BadParameter(f"{', '.join(strange)}: means nothing to a {use}, which takes {takes}; leave it out")
    return ways[way]
