"""Chat templates: the sandbox and the data write what upstream writes, or refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.chat_templates import FAMILIES
from transformers.utils.chat_template_utils import render_jinja_template

from edgevlm.errors import FamilyError, PromptError
from edgevlm.text.chat_text import Turn, chat_text
from edgevlm.text.sample_dialogues import messages, sample_dialogues
from edgevlm.text.sandbox import SandboxedTemplate
from edgevlm_export.families.common.prompts import derive_dialogue

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}


def message_of(role: str, text: str, pictures: int = 0) -> dict[str, Any]:
    return {"role": role, "content": [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]}


DIALOGUES = (
    [message_of("user", "Hi  there ü \"q\" <b> 'x' ", 1)],
    [
        message_of("system", " Be brief. "),
        message_of("user", "a", 2),
        message_of("assistant", "so</think>no"),
        message_of("user", "line\nbreak {{ bos_token }} {% if %}"),
    ],
    [message_of("user", "")],
)
TEMPLATES = {
    "loop": "{% for m in messages %}{{ loop.index }}/{{ loop.length }}/{{ loop.revindex0 }}{{ loop.first }}"
    "{{ loop.last }}"
    "{{ loop.previtem.role if loop.previtem is defined }}{{ loop.nextitem.role if loop.nextitem is defined }}"
    "{% endfor %}",
    "cycle": "{% for m in messages %}{{ loop.cycle('a', 'b') }}{{ loop.index0 }}{% else %}nobody{% endfor %}",
    "namespace": "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% for c in m.content %}"
    "{% if c.type == 'image' %}{% set ns.found = true %}{% set ns.n = ns.n + 1 %}{% endif %}{% endfor %}{% endfor %}"
    "{{ ns.found }} {{ ns.n }}",
    "system-first": "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set system = messages[0]['content'][0]['text'] | trim -%}"
    "{%- set rest = messages[1:] -%}{%- else -%}{%- set system = '' -%}{%- set rest = messages -%}{%- endif -%}"
    "{{ bos_token ~ system }}{% for m in rest %}{{ m.role }}{% endfor %}{{ messages[-1].role }}",
    "break": "{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}{{ m.role }}"
    "{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}{{ 'ü<&>' | tojson }}"
    "{{ {'b': 1, 'a': [1.5, none, true]} | tojson(sort_keys=true, separators=(',', ':')) }}",
    "macro": "{% macro part(c, tag='x') %}<{{ tag }}>{{ c.text if c.type == 'text' else '[' ~ c.type ~ ']' }}"
    "{% endmacro %}"
    "{% for m in messages %}{% for c in m.content %}{{ part(c) }}{{ part(c, tag='y') }}{% endfor %}{% endfor %}",
    "nested-macro": "{% macro show(content) %}{% if content is string %}{{ content }}{% else %}{% for c in content %}"
    "{{ show(c.text) if c.type == 'text' else '<image>' }}{% endfor %}{% endif %}{% endmacro %}"
    "{% for m in messages %}{{ show(m.content) }}{% endfor %}",
    "caller": "{% macro wrap() %}[{{ caller('q') }}]{% endmacro %}{% call(x) wrap() %}{{ x }}{% endcall %}",
    "turns": "{% for m in messages %}{{ '<|a|>' + m['role'] + '\\n' + m['content'][-1]['text'] + '<|b|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|a|>assistant\\n' }}{% endif %}",
    "text-methods": "{% for m in messages %}{% set text = m.content | selectattr('type', 'equalto', 'text')"
    " | map(attribute='text') | join(' ') %}{{ text.split('</think>')[-1].lstrip('\\n') }}"
    "{{ text.replace('a', 'b').strip().upper() }}{{ text.startswith('a') }}{{ text | length }}{% endfor %}",
    "tests": "{% for m in messages %}{% if m.content is string %}"
    "s{% elif m.content is iterable and m.content is not mapping %}"
    "{{ m.content | length }}{% endif %}{% endfor %}{{ foo is defined }}{{ tools is none }}{{ documents is not none }}"
    "{{ bos_token is string }}{{ 3 is number }}{{ 3 is odd }}{{ messages is sequence }}{{ true is boolean }}",
    "keys": "{% for m in messages %}{% for k, v in m.items() %}{{ k }}={{ v | length }};{% endfor %}"
    "{% for k, v in m | dictsort %}{{ k }}{% endfor %}{{ m.get('name', 'none') }}"
    "{{ m.keys() | list | join(',') }}{% endfor %}",
    "white-space": "{%- for m in messages -%}\n    {%- if m.role == 'user' %}\n  U: {{ m.content[0].type }}"
    "\n    {%- else %}\n"
    "  O\n    {%- endif %}\n{%- endfor %}\n\n  tail\n",
    "trimmed-blocks": "    {% if true %}\n  kept\n    {% endif %}\n{# note #}\nend\n{%+ if true +%}"
    "  a{% endif %}\n{{- 'b' -}}\n c\n\n",
    "blocks": "{% set x %}a{{ bos_token }}b{% endset %}{{ x }}{% filter upper %}abc{{ eos_token }}{% endfilter %}"
    "{% with y = 3 %}{{ y * 2 }}{% endwith %}{% raw %}{{ not }}{% endraw %}{{ '{{' }}",
    "numbers": "{{ (messages | length) % 2 == 0 }}{{ 7 // 2 }}{{ 7 / 2 }}{{ -3 | abs }}{{ '4' | int + 1 }}"
    "{{ 1 | float }}",
    "refusals": "{{ raise_exception('no') if messages | length > 99 else 'ok' }}"
    "{% if messages[0].role not in ['user', 'system'] %}{{ raise_exception('bad') }}{% endif %}",
    "filtered-loop": "{% for m in messages if m.role == 'user' %}{{ m.role | capitalize }}{{ m.role | title }}"
    "{% endfor %}"
    "{% for c in messages[0].content | rejectattr('type', 'equalto', 'image') | list %}{{ c.type }}{% endfor %}",
    "ends": "{{ (messages | first).role }}{{ (messages | last).role }}"
    "{{ messages | reverse | map(attribute='role') | join }}",
    "missing": "{{ 'image' in messages[0].content[0] }}{{ 'type' in messages[0].content[0] }}"
    "{{ messages[0]['missing'] }}"
    "{{ messages[0].missing is not defined }}{{ missing | default('d') }}{{ '' | default('e', true) }}",
    "ranges": "{% for i in range(3) %}{{ i }}{% endfor %}"
    "{% for i in range(messages | length - 1, -1, -1) %}{{ messages[i].role }}{% endfor %}",
    "generation": "{% generation %}x{{ bos_token }}{% endgeneration %}{% for m in messages %}"
    "{%- generation -%} {{ m.role }} {%- endgeneration -%}{% endfor %}",
    "slices": "{{ 'a,b,,c'.split(',') }}{{ 'a b'.title() }}{{ 'abc'[1:] }}{{ 'abc'[::-1] }}{{ 'x'.join(['a', 'b']) }}"
    "{{ '  a '.rstrip() }}{{ 'a\\nb'.splitlines() }}{{ messages[:1] | length }}",
    "collections": "{% set r = dict(a=1, b='x') %}{{ r.a }}{{ r['b'] }}{% set l = [1, 2] + [3] %}{{ l }}"
    "{% set t = (1, 2) %}{{ t[1] }}{% set a, b = 1, 2 %}{{ a ~ b }}{{ {'a': 1} | string }}",
    "counted-pictures": "{%- set seen = namespace(value=0) %}{%- for m in messages %}{%- for c in m.content %}"
    "{%- if c.type == 'image' or 'image' in c %}{%- set seen.value = seen.value + 1 %}"
    "{{ 'Picture ' ~ seen.value ~ ': ' if numbered }}<image>{%- elif 'text' in c %}{{ c.text }}{%- endif %}"
    "{%- endfor %}{%- endfor %}",
}


def upstream(template: str, messages: list[dict[str, Any]]) -> str:
    (text,), _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **VARIABLES)
    return str(text)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_sandbox_writes_what_upstream_writes(name: str) -> None:
    ours = SandboxedTemplate(TEMPLATES[name], VARIABLES)
    written = [ours.render(messages) for messages in DIALOGUES]
    assert written == [upstream(TEMPLATES[name], messages) for messages in DIALOGUES]
    assert any(written)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_templates_of_known_families_become_data_that_writes_what_upstream_writes(
    name: str, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    derived = derive_dialogue(tmp_path, family.source, family.variables, family.placeholder, family.variables.values())
    written = 0
    for turns in sample_dialogues(11, 200):
        try:
            got = family.placeholder.join(chat_text(derived.spec, turns))
        except PromptError:
            continue
        (want,), _ = render_jinja_template(
            [messages(turns)],
            chat_template=family.source.replace("strftime_now", "no_clock"),
            add_generation_prompt=True,
            **family.variables,
        )
        assert got == want, turns
        written += 1
    assert written > 80, f"the form writes {written} of 200"


def test_what_a_template_asks_for_is_frozen_and_named(tmp_path: Path) -> None:
    def frozen(name: str) -> tuple[str, ...]:
        family = FAMILIES[name]
        return derive_dialogue(tmp_path, family.source, family.variables, family.placeholder, ()).frozen

    assert frozen("smolvlm") == ()
    assert frozen("qwen2.5-vl") == ("add_vision_id", "tools")
    assert frozen("llama-3.2-vision") == ("date_string", "strftime_now")


def test_a_date_without_a_fallback_is_the_same_at_every_export(tmp_path: Path) -> None:
    source = "{{ strftime_now('%d %b %Y') }}" + FAMILIES["smolvlm"].source
    derived = derive_dialogue(tmp_path, source, {}, "<image>", ())
    assert derived.frozen == ("strftime_now = 2024-07-26",)
    assert chat_text(derived.spec, [Turn("user", "x")])[0].startswith("26 Jul 2024<|im_start|>User: x")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ 12345 | round(-1000000000) }}", "cannot be used"),
        ("{{ 10 ** 10 ** 9 }}", "cannot be used"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "cannot be used"),
        ("a" * 70_000, "at most 65536 characters"),
        ("{% for m in messages %}{{ m.content[-1].text }}{% endfor %}", "'<image>' once for one picture"),
    ],
    ids=["round", "power", "range", "long", "no picture"],
)
def test_a_template_that_does_not_end_or_is_no_dialogue_ends_the_export_by_name(
    source: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(FamilyError, match=message):
        derive_dialogue(tmp_path, source, {}, "<image>", ())
