"""A chat on the command line: one answer about pictures, or a dialogue on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from edgevlm.bundle import Bundle
from edgevlm.cli.tasks.base import PICTURE_SIZE, Measured, Plan, Request, TaskRow, Way, operations_table
from edgevlm.errors import ContractError, printable
from edgevlm.images.files import open_photo
from edgevlm.manifest.drivers import DecoderArgs
from edgevlm.manifest.schema import ChatManifest, DialogueManifest, QuestionManifest
from edgevlm.profiler import StepRecorder, summarize
from edgevlm.tasks import Answer, Chat
from edgevlm.tasks.generation_config import AnswerStream

ANSWER_TOKENS = 16  # of a profile
HELP = "/image FILE shows a picture with the next question, /reset begins anew, /quit or the end of input ends"


def _ask(console: Console, chat: Chat, request: Request) -> dict[str, Any]:
    """Print the answer to one question as it comes, and give it as figures."""
    images, texts = request.images, request.texts
    if len(texts) > 1 or (chat.needs_text and not texts):
        raise typer.BadParameter("a chat takes one --text T, with --image F for each picture, or --chat")
    text = texts[0] if texts else ""
    answer = _print(console, chat.stream(list(images), text, **request.generation))
    return {"images": list(images), "question": text, **_figures(answer), "bundle_sha256": chat.bundle.sha256}


def _dialogue(console: Console, chat: Chat, request: Request) -> dict[str, Any]:
    """An answer for each line of standard input; one with a fault is named on standard error, and the rest goes on."""
    lines: Iterable[str] = typer.get_text_stream("stdin")
    session, pictures, turns = chat.session(), [], []
    asking = sys.stdin.isatty()
    if asking:
        console.print(HELP)
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        try:
            if word == "/quit":
                break
            if word == "/image":
                pictures.append(open_photo(rest.strip()))
            elif word == "/reset":
                session.reset()
                pictures = []
            elif word.startswith("/"):
                raise ContractError(f"{word}: expected a question or a command; {HELP}")
            elif word:
                answer = _print(console, session.stream(pictures, line.strip(), **request.generation))
                turns.append({"question": line.strip(), "pictures": len(pictures), **_figures(answer)})
                pictures = []
        except ContractError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return {"turns": turns, "bundle_sha256": chat.bundle.sha256}


def _print(console: Console, speaking: AnswerStream) -> Answer:
    while True:
        try:
            token = next(speaking)
        except StopIteration as done:
            console.out()
            answer: Answer = done.value
            return answer
        console.out(printable(token.text), end="", highlight=False)
        console.file.flush()


def _figures(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "token_ids": list(answer.token_ids),
        "ended": answer.ended,
        "prompt_tokens": answer.prompt_tokens,
        "reused_tokens": answer.reused_tokens,
        "first_token_ms": answer.first_token_s * 1e3,
        "times_ms": {name: duration / 1e6 for name, duration in answer.times_ns.items()},
    }


def _table(bundle: Bundle) -> Table:
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
    table = operations_table("pictures and prompts", manifest.operations)
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
    table = operations_table("pictures and questions", manifest.operations)
    reader = "an encoder, beside the picture" if question.reader == "encoder" else "the decoder, which goes on from it"
    needed = "" if question.needs_text else "; may be empty"
    table.add_row("question", f"read by {reader}; at most {question.max_tokens} tokens{needed}")
    table.add_row("begins with", ", ".join(map(str, args.begin)))
    return table


def _measure(model: Chat, plan: Plan) -> Measured:
    """In each step a question about a new picture, whose stages are shown, and another one about the same picture."""
    steps, warmup, question, report = plan
    usual = "What can be seen here?" if model.needs_text else ""
    random = np.random.default_rng(0)
    recorder, first_ns = StepRecorder(), 0
    firsts: dict[str, list[int]] = {"first token": [], "first token, same picture": [], "next token": []}
    for step in range(warmup + steps):
        picture = random.integers(0, 256, PICTURE_SIZE, np.uint8)
        begin = time.perf_counter_ns()
        new = model.ask(picture, usual if question is None else question, max_new_tokens=ANSWER_TOKENS)
        first_ns = time.perf_counter_ns() - begin if step == 0 else first_ns
        if step >= warmup:
            recorder.add(new.times_ns)
        same = model.ask(picture, "Is anything in the way?", max_new_tokens=1)
        if step >= warmup:
            new_ns = round(new.first_token_s * 1e9)
            firsts["first token"].append(new_ns)
            firsts["first token, same picture"].append(round(same.first_token_s * 1e9))
            if len(new.token_ids) > 1:
                firsts["next token"].append((new.times_ns["step"] - new_ns) // (len(new.token_ids) - 1))
            report("profile", step - warmup + 1, steps)
    return Measured(recorder, first_ns, {"chat": {name: summarize(durations) for name, durations in firsts.items()}})


_GENERATION = frozenset({"seed", "max_new_tokens", "temperature", "top_p"})
CHAT = TaskRow(
    ways={"once": Way(_GENERATION | {"image", "text"}, _ask), "chat": Way(_GENERATION, _dialogue)},
    table=_table,
    measure=_measure,
    steps=10,
    warmup=1,
)
