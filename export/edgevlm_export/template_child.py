"""The process that turns a checkpoint's chat template into data, by transformers' own rendering of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from edgevlm.errors import require
from edgevlm.text import confined
from edgevlm.text.derivation import NotDerivable, Refused, derive, frozen, literals

CLOCK = "strftime_now"
# Where a template has no other date to fall back on: the day that Llama 3 templates name, the same at every export.
DATE = datetime(2024, 7, 26)


def main() -> None:
    """Answer the request on standard input: the dialogue and the frozen names, or why there is none."""
    request = confined.request()
    upstream = require("transformers.utils.chat_template_utils", extra="export")
    confined.limit_self()
    try:
        confined.reply(_answer(upstream, **request))
    except MemoryError:
        confined.reply({"refused": "it takes too much memory"})


def _answer(
    upstream: Any, source: str, variables: Mapping[str, str], placeholder: str, reserved: Sequence[str]
) -> dict[str, Any]:
    jinja = require("jinja2", extra="export")
    try:
        environment = upstream._compile_jinja_template(source).environment
        tree = environment.parse(source)
    except (jinja.TemplateError, RecursionError) as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    environment.globals.pop(CLOCK)

    def render(messages: list[dict[str, Any]]) -> str:
        try:
            (text,), _ = upstream.render_jinja_template(
                [messages], chat_template=source, add_generation_prompt=True, **variables
            )
        except Exception as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
        return str(text)

    names, words = frozen(jinja, tree, variables), literals(jinja, tree, [placeholder, *reserved, *variables.values()])
    try:
        dialogue = derive(render, placeholder, words)
    except NotDerivable as error:
        if CLOCK not in names:
            return {"refused": str(error)}
        environment.globals[CLOCK] = DATE.strftime
        try:
            dialogue = derive(render, placeholder, words)
        except NotDerivable as again:
            return {"refused": str(again)}
        names = [f"{CLOCK} = {DATE:%Y-%m-%d}" if name == CLOCK else name for name in names]
    return {"dialogue": dialogue.model_dump(mode="json"), "frozen": names}
