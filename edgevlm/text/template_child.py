"""The process that turns the chat template of a bundle of 1.2 or 1.3 into data; see `edgevlm.text.template`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgevlm.errors import BundleError, PromptError, require
from edgevlm.manifest.text import DialogueSpec
from edgevlm.text import confined
from edgevlm.text.derivation import NotDerivable, Refused, compare, derive, frozen, literals
from edgevlm.text.sample_dialogues import sample_dialogues
from edgevlm.text.sandbox import SandboxedTemplate, parse


def main() -> None:
    """Answer the request on standard input: the dialogue, or why there is none."""
    request = confined.request()
    for module in ("jinja2.sandbox", "jinja2.ext", "jinja2.nodes", "jinja2.visitor", "jinja2.meta"):
        require(module, extra="chat")
    confined.limit_self()
    try:
        confined.reply(_answer(**request))
    except MemoryError:
        confined.reply({"refused": "it takes too much memory"})


def _answer(
    source: str,
    variables: Mapping[str, str],
    placeholder: str,
    reserved: Sequence[str],
    check: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The answer; with `check` (`dialogue`, `seed` and `count`) the proof of earlier data on other dialogues."""
    jinja = require("jinja2", extra="chat")
    try:
        template = SandboxedTemplate(source, variables)
    except BundleError as error:
        return {"refused": str(error)}

    def render(messages: list[dict[str, Any]]) -> str:
        try:
            return template.render(messages)
        except PromptError as error:
            raise Refused(str(error)) from error

    tree = parse(jinja, source)
    words = literals(jinja, tree, [placeholder, *reserved, *variables.values()])
    try:
        if check is None:
            dialogue = derive(render, placeholder, words)
            return {"dialogue": dialogue.model_dump(mode="json"), "frozen": frozen(jinja, tree, variables)}
        spec = DialogueSpec.model_validate_json(json.dumps(check["dialogue"]), strict=True)
        dialogues = sample_dialogues(check["seed"], check["count"], words)
        return {"written": compare(spec, render, placeholder, dialogues)}
    except NotDerivable as error:
        return {"refused": str(error)}
