"""A chat template as the child process runs it: upstream's language, and none of a stranger's tricks."""

from __future__ import annotations

import time
from typing import Any

import pytest

from edgevlm.errors import BundleError, PromptError
from edgevlm.text.sandbox import SandboxedTemplate

# ruff: noqa: E501 - an attack is read best in one line

PARTS: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": [{"type": "text", "text": "be short"}]},
    {"role": "user", "content": PARTS},
]
LIMIT_S = 5.0  # each attack below ends within this, on a machine that does other things besides


def render(source: str, messages: Any = None, **variables: str) -> str:
    return SandboxedTemplate(source, variables).render(MESSAGES if messages is None else messages)


def test_renders_a_dialogue_as_upstream_does() -> None:
    source = """\
{%- for message in messages -%}
    {% if message.role == 'system' %}
[{{ message['content'][0]['text'] | trim }}]
    {% else %}
{{ loop.index ~ ':' + message['role'].upper() }}
        {%- for part in message['content'] | selectattr('type', 'equalto', 'text') %}
 {{ part.text }}{% generation %}!{% endgeneration %}
        {%- endfor %}
    {% endif %}
{%- endfor %}
{%- if add_generation_prompt and tools is none and not documents %}

{{ bos_token }}A:
{%- endif %}"""
    assert render(source, bos_token="<s>") == "[be short]\n2:USER what is it?!\n<s>A:"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages | length }} {{ missing }}.", "2 ."),
        ("{% set ns = namespace(n=1) %}{% for i in range(4) %}{% set ns.n = ns.n * 2 %}{% endfor %}{{ ns.n }}", "16"),
        ("{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}", "0134"),
        ("{{ {'b': 'ä<', 'a': [1, none, true]} | tojson }}", '{"b": "ä<", "a": [1, null, true]}'),
        ("{{ ' a b '.strip().split(' ') | join('-') }}{{ 'x'.replace('x', 'yy') }}", "a-byy"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(1) }}{{ m('a' ~ 1 ~ none) }}", "<1><a1None>"),
        ("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% if not loop.last %},{% endif %}{% endfor %}", "a1,b2"),
        ("{{ messages[1:] | map(attribute='role') | list }}", "['user']"),
        ("{{ messages[::-1][0]['role'] }}{{ 'us' in messages[1].role }}", "userTrue"),
        ("{% set x %}{{ 1 + 1 }}{% endset %}{{ x }}", "2"),
        ("{{ 'a' if messages is sequence and messages[0] is mapping else 'b' }}", "a"),
    ],
)  # fmt: skip
def test_knows_what_templates_of_checkpoints_use(source: str, text: str) -> None:
    assert render(source) == text


def test_a_template_may_refuse_a_dialogue() -> None:
    with pytest.raises(PromptError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_the_date_is_not_there() -> None:
    with pytest.raises(PromptError, match="'strftime_now' is undefined"):
        render("{{ strftime_now('%d %B') }}")
    assert render("{{ strftime_now('%d') if strftime_now is defined else '26 Jul 2024' }}") == "26 Jul 2024"


ESCAPES = {
    "class of a text": "{{ ''.__class__.__mro__ }}",
    "subclasses": "{{ ''['__class__']['__mro__'][1]['__subclasses__']() }}",
    "attr filter": "{{ '' | attr('__class__') }}",
    "attribute of map": "{{ [''] | map(attribute='__class__') | list }}",
    "globals of a macro": "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "globals of a function": "{{ range.__globals__ }}",
    "globals of raise_exception": "{{ raise_exception.__globals__['__builtins__'] }}",
    "format of a text": "{{ '{0.__class__}'.format(1) }}",
    "format through a reference": "{% set f = '{0.__class__}'.format %}{{ f(1) }}",
    "format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "format filter": "{{ '%s' | format(1) }}",
    "format to a length": "{{ '{:100000000}'.format(1) }}",
    "format by map": "{{ ['{:100000000}'] | map(attribute='format') | first }}{{ (['{:9}'] | map(attribute='format') | first)(1) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "frame of a generator": "{{ (messages | map('upper')).gi_frame }}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends 'x' %}",
    "block": "{% block b %}{{ self.b() }}{% endblock %}",
    "environment of a loop": "{% for x in [1] %}{{ loop._LoopContext__x }}{% endfor %}",
    "namespace's insides": "{% set ns = namespace() %}{{ ns.__class__ }}",
    "self": "{{ self.__init__ }}",
    "cycler": "{{ cycler.__init__.__globals__ }}",
    "lipsum": "{{ lipsum.__globals__ }}",
    "to_bytes": "{{ (1).to_bytes(100000000, 'big') }}",
    "change a message": "{{ messages.append(1) }}",
    "change a part": "{{ messages[0].update(role='x') }}",
    "clear": "{{ messages[0].clear() }}",
    "autoescape": "{% autoescape true %}{{ 1 }}{% endautoescape %}",
    "a function as text": "{{ range }}",
}  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_of_python_is_reached(name: str) -> None:
    before = repr(MESSAGES)
    try:
        text = render(ESCAPES[name])
    except (PromptError, BundleError) as error:
        assert "it fails with" not in str(error)
        text = ""
    assert text in ("", "[Undefined]")
    assert repr(MESSAGES) == before


BOMBS = {
    "range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "nested loops": "{% for i in range(10000) %}{% for j in range(10000) %}{% for k in range(10000) %}{% endfor %}{% endfor %}{% endfor %}",
    "loop without a body that counts": "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
    "power": "{{ 10 ** 10 ** 10 }}",
    "power step by step": "{% set n = namespace(x=64) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "text times a number": "{{ 'a' * 10 ** 9 }}",
    "list times a number": "{{ [1] * 1000000000 }}",
    "doubling by +": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling by ~": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling by set": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
    "doubling by join": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = [n.x, n.x] | join %}{% endfor %}",
    "squares by replace": "{% set n = namespace(x='aaaa') %}{% for i in range(9) %}{% set n.x = n.x | replace('a', n.x) %}{% endfor %}",
    "squares by .replace": "{% set n = namespace(x='aaaa') %}{% for i in range(9) %}{% set n.x = n.x.replace('a', n.x) %}{% endfor %}",
    "squares by .join": "{% set n = namespace(x='aaaa') %}{% for i in range(9) %}{% set n.x = n.x.join(n.x) %}{% endfor %}",
    "squares by join": "{% set n = namespace(x='aaaa') %}{% for i in range(9) %}{% set n.x = n.x | join(n.x) %}{% endfor %}",
    "lists of lists": "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "dicts of dicts": "{% set n = namespace(x={}) %}{% for i in range(99) %}{% set n.x = {'a': n.x, 'b': n.x} %}{% endfor %}{{ n.x | tojson }}",
    "dicts by call": "{% set n = namespace(x=1) %}{% for i in range(99) %}{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}{{ n.x }}",
    "tuples": "{% set n = namespace(x=1) %}{% for i in range(99) %}{% set n.x = (n.x, n.x) %}{% endfor %}{{ n.x | string }}",
    "center": "{{ 'a' | center(10 ** 9) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "indent": "{{ 'a\\nb' | indent(1000000000) }}",
    "indent of tojson": "{{ [1, 2] | tojson(indent=1000000000) }}",
    "separators of tojson": "{{ [1, 2] | tojson(separators=('a' * 1000000, 'b' * 1000000)) }}",
    "macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "macros that double": "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{{ " + "m(" * 60 + "'a'" + ")" * 60 + " }}",
    "recursive loop": "{% for i in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "long searches": "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{% if 'b' in x %}{% endif %}{% endfor %}",
    "long slices": "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{% set y = x[1:] %}{% endfor %}",
    "long comparisons": "{% set x = 'a' * 1000000 %}{% set y = x ~ '' %}{% for i in range(99999) %}{% if x == y %}{% endif %}{% endfor %}",
    "long filters": "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{% set y = x | upper %}{% endfor %}",
    "long methods": "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{% set y = x.count('b') %}{% endfor %}",
    "long tests": "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{% if 'b' is in x %}{% endif %}{% endfor %}",
    "much text": "{% for i in range(3000) %}" + "a" * 60_000 + "{% endfor %}",
    "sum of lists": "{{ [[1], [2]] | sum(start=[]) }}",
    "a list that holds itself": "{% set n = namespace(x=1) %}{% set n.x = n %}{{ n }}",
    "round": "{{ 12345 | round(-1000000000) }}",
    "round of a text's length": "{{ (messages | length) | round(-(10 ** 9)) }}",
    "deep brackets": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_would_fill_the_memory_or_the_day_is_stopped(name: str) -> None:
    begun = time.process_time()
    with pytest.raises((PromptError, BundleError)) as caught:
        render(BOMBS[name])
    assert "it fails with" not in str(caught.value) or "RecursionError" in str(caught.value)
    assert time.process_time() - begun < LIMIT_S


def test_a_template_that_is_stopped_once_still_renders_the_next_dialogue() -> None:
    template = SandboxedTemplate("{% for m in messages %}{% for i in range(9999) %}{% endfor %}x{% endfor %}", {})
    with pytest.raises(PromptError):
        template.render(MESSAGES * 200)
    assert template.render(MESSAGES) == "xx"


@pytest.mark.parametrize("source", ["{% for %}", "{{ x | no_such_filter }}", "{{", "{% nothing %}"])
def test_what_is_no_template_is_refused_when_it_is_opened(source: str) -> None:
    with pytest.raises(BundleError):
        SandboxedTemplate(source, {})


def test_what_a_user_says_is_never_read_as_a_template() -> None:
    dialogue = [{"role": "user", "content": [{"type": "text", "text": "{{ 1 + 1 }}{% raw %}"}]}]
    assert render("{{ messages[0].content[0].text }}", dialogue) == "{{ 1 + 1 }}{% raw %}"


def test_a_long_dialogue_stays_within_the_budget() -> None:
    source = "{% for m in messages %}{% for p in m.content %}{{ p.text ~ m.role }}{% endfor %}{% endfor %}" + " " * 6000
    turns = [{"role": "user", "content": [{"type": "text", "text": "a word or two " * 20}]}] * 400
    assert len(render(source, turns)) > 400 * 280
