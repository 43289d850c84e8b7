"""Chat templates as an enemy or a careless author would make them: they become data that writes the same, or nothing.

Half are turned into data as an export does, half as the opening of an older bundle. What was accepted is compared with
Jinja's own text on dialogues that no proof has used; a template that only joins literal text must be accepted.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import jinja2
import jinja2.sandbox

from edgevlm.errors import BundleError, FamilyError, PromptError
from edgevlm.manifest.text import DialogueSpec
from edgevlm.text.chat_text import chat_text
from edgevlm.text.sample_dialogues import messages, sample_dialogues
from edgevlm.text.template import ChatTemplate
from edgevlm_export.families.common.prompts import derive_dialogue

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}
FRESH = 40

_STARTS = (
    "",
    "{{ bos_token }}",
    "<|begin|>\n",
    "{# a note #}{{ '[gMASK]' }}",
    "{% if x is defined %}{{ x }}{% endif %}",
)
_SYSTEMS = (
    "",
    "{% if messages[0].role != 'system' %}{{ '<sys>You help.</sys>\\n' }}{% endif %}",
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}",
)
_HEADS = (
    "{{ '<|' ~ m.role ~ '|>\\n' }}",
    "{{ m.role | upper }}: ",
    "{% if m.role == 'user' %}[INST] {% elif m.role == 'system' %}<<{% else %} {% endif %}",
    "{{ m.role | capitalize ~ (':' if m.content[0].type == 'image' else ': ') }}",
    "{{ '' if loop.first else '\\n' }}### {{ m.role }}\n",
)
_TEXTS = ("p.text", "p.text | trim", "p.text.strip()", "p['text'].lstrip()", "p.text.rstrip()", "(p.text ~ ' ')")
_PICTURES = ("'<image>'", "'<image>\\n'", "'<img><image></img>'", "' <image> '")
_TAILS = (
    "{{ '<|end|>\\n' }}",
    "{{ eos_token }}",
    "{% if m.role == 'user' %} [/INST]{% else %}{{ eos_token }}{% endif %}",
)
_ENDS = ("", "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}", "ASSISTANT:")
# fmt: off
_ODD = (  # into a template's loop: each makes it something else than literal text between slots, or does not end
    "{{ loop.index }}",
    "{{ loop.revindex0 }}",
    "{{ m.content | length }}",
    "{{ m.content[-1].text | length }}",
    "{{ m.content[-1].text }}",
    "{{ messages | length }}",
    "{% if loop.index > 4 %}{% break %}{% endif %}",
    "{% if m.role == 'assistant' and not loop.last %}{% continue %}{% endif %}",
    "{% if 'open' in m.content[-1].text %}sesame{% endif %}",
    "{% if m.content[-1].text == 'Open sesame' %}{{ '<image>' }}{% endif %}",
    "{{ m.content[-1].text | upper }}",
    "{{ m.content[-1].text.split('x')[-1] }}",
    "{{ strftime_now('%d %B') }}",
    "{{ strftime_now('%d') if strftime_now is defined else '26 Jul' }}",
    "{% if tools %}{{ tools | tojson }}{% endif %}",
    "{{ range(1000000000) | list | length }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
    "{{ 12345 | round(-1000000000) }}",
    "{{ (loop.index * 1.5) | round(300000000) }}",
    "{{ 'a' * 1000000000 }}",
    "{{ m.content[-1].text * 100000000 }}",
    "{{ 10 ** 10 ** 8 }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% macro g(n) %}{% if n %}{{ g(n - 1) }}{{ g(n - 1) }}{% endif %}{% endmacro %}{{ g(60) }}",
    "{% for i in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ 'x'.ljust(1000000000) }}",
    "{{ 'x' | center(1000000000) }}",
    "{{ lipsum(n=1000000) }}",
    "{{ messages | tojson(indent=100000000) }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ raise_exception('x' * 100000000) }}",
    "{{ '<image>' }}",
    "{{ '\\ud800' }}",
)
# fmt: on


class Templates:
    """See `attack.base.Attack`."""

    name = "templates"
    unit = "chat templates"
    limit_s = 120.0
    memory_mb = 4096

    def one(self, seed: int, directory: Path) -> str:
        """One template: plain, with an odd part in it, or with its characters shuffled."""
        os.environ["XDG_CACHE_HOME"] = str(directory)
        rng = random.Random(seed)
        plain = _plain(rng)
        kind = rng.choice(("plain", "odd", "odd", "mutated"))
        source = {"plain": str, "odd": lambda text: _odd(rng, text), "mutated": lambda text: _mutated(rng, text)}[kind](
            plain
        )
        dialogue = _exported(source, directory) if seed % 8 == 0 else _opened(source)
        if dialogue is None:
            assert kind != "plain", f"refused, and it only joins literal text: {source!r}"
            return f"{kind} refused"
        _compare(dialogue, source, seed)
        return f"{kind} accepted"


def _plain(rng: random.Random) -> str:
    text, picture = rng.choice(_TEXTS), rng.choice(_PICTURES)
    body = (
        f"{{% for p in m.content %}}{{% if p.type == 'image' %}}{{{{ {picture} }}}}{{% else %}}{{{{ {text} }}}}"
        "{% endif %}{% endfor %}"
    )
    loop = f"{{% for m in messages %}}{rng.choice(_HEADS)}{body}{rng.choice(_TAILS)}{{% endfor %}}"
    return rng.choice(_STARTS) + rng.choice(_SYSTEMS) + loop + rng.choice(_ENDS)


def _odd(rng: random.Random, source: str) -> str:
    places = [place for place in range(len(source)) if source.startswith("{%", place)] + [len(source)]
    place = rng.choice(places[1:])
    return source[:place] + rng.choice(_ODD) + source[place:]


def _mutated(rng: random.Random, source: str) -> str:
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(source))
        end = min(len(source), start + rng.randint(1, 12))
        middle = rng.choice(("", source[start:end] * 2, rng.choice("{}%|~'\"().-m 0")))
        source = source[:start] + middle + source[end:]
    return source


def _exported(source: str, directory: Path) -> DialogueSpec | None:
    try:
        return derive_dialogue(directory, source, VARIABLES, "<image>", VARIABLES.values()).spec
    except FamilyError:
        return None


def _opened(source: str) -> DialogueSpec | None:
    try:
        return ChatTemplate(source, VARIABLES, "<image>", tuple(VARIABLES.values())).dialogue
    except BundleError:
        return None


def _compare(dialogue: DialogueSpec, source: str, seed: int) -> None:
    """The data against Jinja itself, set up here as transformers documents it."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
        optimized=False,
        finalize=jinja2.pass_context(lambda _, value: value),  # no constant is folded that no dialogue reaches
    )

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    template = environment.from_string(source, globals={"raise_exception": refuse})
    for turns in sample_dialogues(1_000_003 + seed, FRESH):
        try:
            got = "<image>".join(chat_text(dialogue, turns))
        except PromptError:
            continue
        arguments = {"tools": None, "documents": None, "add_generation_prompt": True, **VARIABLES}
        want = template.render(messages=messages(turns), **arguments)
        assert got == want, f"{source!r} writes {want!r:.300} for {turns!r:.300}, its data {got!r:.300}"
