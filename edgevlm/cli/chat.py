"""edgevlm run on a chat: one answer about pictures, or a dialogue on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console

from edgevlm.errors import ContractError, printable
from edgevlm.images.files import open_photo
from edgevlm.tasks import Answer, Chat
from edgevlm.tasks.generation_config import AnswerStream, GenerationOptions

HELP = "/image FILE shows a picture with the next question, /reset begins anew, /quit or the end of input ends"


def serve(
    console: Console, chat: Chat, asked: tuple[Sequence[str], Sequence[str]] | None, how: GenerationOptions
) -> dict[str, Any]:
    """The answer to (pictures, texts), or where nothing is asked yet a dialogue with who sits at standard input."""
    if asked is None:
        return dialogue(console, chat, typer.get_text_stream("stdin"), how)
    return ask(console, chat, *asked, how)


def ask(
    console: Console, chat: Chat, images: Sequence[str], texts: Sequence[str], how: GenerationOptions
) -> dict[str, Any]:
    """Print the answer to one question as it comes, and give it as figures."""
    if len(texts) > 1 or (chat.needs_text and not texts):
        raise typer.BadParameter("a chat takes one --text T, with --image F for each picture, or --chat")
    text = texts[0] if texts else ""
    answer = _print(console, chat.stream(list(images), text, **how))
    return {"images": list(images), "question": text, **_figures(answer), "bundle_sha256": chat.bundle.sha256}


def dialogue(console: Console, chat: Chat, lines: Iterable[str], how: GenerationOptions) -> dict[str, Any]:
    """One answer for each line; a line with a fault is named on standard error and the dialogue goes on."""
    session, shown, said = chat.session(), [], []
    asking = sys.stdin.isatty()
    if asking:
        console.print(HELP)
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        try:
            if word == "/quit":
                break
            if word == "/image":
                shown.append(open_photo(rest.strip()))
            elif word == "/reset":
                session.reset()
                shown = []
            elif word.startswith("/"):
                raise ContractError(f"{word}: expected a question or a command; {HELP}")
            elif word:
                answer = _print(console, session.stream(shown, line.strip(), **how))
                said.append({"question": line.strip(), "pictures": len(shown), **_figures(answer)})
                shown = []
        except ContractError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return {"turns": said, "bundle_sha256": chat.bundle.sha256}


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
