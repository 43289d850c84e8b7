"""A bundle's chat template becomes data in a child that ends, once, and is cached where nobody can poison it."""

# ruff: noqa: E501 - a template is read best in one line

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import talker
from support.chat_templates import FAMILIES

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.errors import BundleError, DependencyError
from edgevlm.manifest.text import DialogueSpec
from edgevlm.text import confined, template
from edgevlm.text.chat_text import Turn, chat_text
from edgevlm.text.confined import MAX_SOURCE
from edgevlm.text.template import ChatTemplate, cache_directory, prompt_as_data

VARIABLES = {"bos_token": "<bos>"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def no_child(*_: object, **__: object) -> object:
    raise AssertionError("a child was started")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_templates_of_known_families_become_data(name: str) -> None:
    family = FAMILIES[name]
    dialogue = ChatTemplate(family.source, family.variables, family.placeholder).dialogue
    assert dialogue.gaps(system=False, pictures=True) is not None
    assert DialogueSpec.model_validate_json(dialogue.model_dump_json(), strict=True) == dialogue


def test_the_data_is_what_one_would_write_by_hand(tmp_path: Path) -> None:
    bundle = open_bundle(talker.chat(tmp_path / "chat", template=talker.TEMPLATE))
    prompt = prompt_as_data(bundle)
    assert prompt.dialogue == DialogueSpec(**talker.DIALOGUE)
    assert prompt.template is None and not prompt.variables


def test_a_bundle_of_today_starts_no_child_and_imports_no_jinja(tmp_path: Path) -> None:
    root = talker.chat(tmp_path / "chat")
    script = (
        "import subprocess, sys, edgevlm\n"
        "subprocess.Popen = None\n"
        "with edgevlm.load_chat(sys.argv[1]) as chat: print(len(chat.prepare(None, 'a').ids))\n"
        "assert not [name for name in sys.modules if name.startswith(('jinja2', 'edgevlm.text.sandbox'))]\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(root)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not cache_directory().exists()


def test_a_bundle_of_1_3_answers_as_one_of_today(tmp_path: Path) -> None:
    old = talker.chat(tmp_path / "old", template=talker.TEMPLATE)
    new = talker.chat(tmp_path / "new")
    with edgevlm.load_chat(old) as before, edgevlm.load_chat(new) as after:
        picture = talker.picture(1)
        assert before.prepare([picture, picture], "what?").ids == after.prepare([picture, picture], "what?").ids
        assert before.ask(picture, "what?").token_ids == after.ask(picture, "what?").token_ids


def test_the_second_load_starts_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ChatTemplate(talker.TEMPLATE, VARIABLES).dialogue
    (cached,) = cache_directory().iterdir()
    assert cached.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(template, "run_confined", no_child)
    assert ChatTemplate(talker.TEMPLATE, VARIABLES).dialogue == first
    for other in ({"bos_token": "<s>"}, {}):  # whatever it depends on is in the name
        with pytest.raises(AssertionError, match="a child was started"):
            ChatTemplate(talker.TEMPLATE, other)


def spoil(path: Path, how: str) -> None:
    text = path.read_bytes()
    if how == "link":
        path.rename(path.with_suffix(".other"))
        path.symlink_to(path.with_suffix(".other"))
    elif how == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif how == "writable by all":
        path.chmod(0o666)
    else:
        contents = {"empty": b"", "cut": text[:-9], "no text": b"\xff\xfe", "large": b" " * confined.MAX_REPLY + text}
        path.write_bytes(contents[how] if how in contents else text.replace(b"none", b"some"))


@pytest.mark.parametrize(
    "how", ["link", "fifo", "writable by all", "empty", "cut", "no text", "large", "an unknown strip"]
)
def test_a_cached_result_that_is_not_ours_is_not_used(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dialogue = ChatTemplate(talker.TEMPLATE, VARIABLES).dialogue
    (cached,) = cache_directory().iterdir()
    spoil(cached, how)
    assert ChatTemplate(talker.TEMPLATE, VARIABLES).dialogue == dialogue
    monkeypatch.setattr(template, "run_confined", no_child)
    assert ChatTemplate(talker.TEMPLATE, VARIABLES).dialogue == dialogue  # it was put right


def test_a_cache_that_cannot_be_written_is_no_reason_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert ChatTemplate(talker.TEMPLATE, VARIABLES).dialogue.cases


HOSTILE = {
    "round": "{{ 12345 | round(-1000000000) }}",
    "a deep tree": "{{ " + "(" * 60_000 + " }}",
    "many loops": "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
    "no template": "{% for %}",
    "an escape": "{{ ''.__class__.__mro__ }}",
    "the date": "{{ strftime_now('%d') }}",
    "drops the words": "{% for m in messages %}{{ m.role }}{% endfor %}",
    "upper case": "{% for m in messages %}{% for p in m.content %}{{ '<image>' if p.type == 'image' else p.text | upper }}"
    "{% endfor %}{% endfor %}",
    "a picture twice": "{% for m in messages %}{% for p in m.content %}{{ '<image><image>' if p.type == 'image' else p.text }}"
    "{% endfor %}{% endfor %}",
    "counts": "{% for m in messages %}{{ loop.index }}{% for p in m.content %}{{ '<image>' if p.type == 'image' else p.text }}"
    "{% endfor %}{% endfor %}",
    "a word of its own": "{% for m in messages %}{% for p in m.content %}{% if p.type == 'image' %}<image>"
    "{% elif p.text == 'open' %}sesame{% else %}{{ p.text }}{% endif %}{% endfor %}{% endfor %}",
    "a long text is cut": "{% for m in messages %}{% for p in m.content %}{{ '<image>' if p.type == 'image' else p.text[:500] }}"
    "{% endfor %}{% endfor %}",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_literal_text_around_the_parts_is_refused(name: str) -> None:
    begin = time.monotonic()
    with pytest.raises(BundleError, match=r"^chat template: .*export its checkpoint again$"):
        ChatTemplate(HOSTILE[name], VARIABLES)
    assert time.monotonic() - begin < confined.TIMEOUT_S
    assert not cache_directory().exists()


def test_the_first_dialogue_that_differs_is_printed_with_both_texts() -> None:
    with pytest.raises(BundleError) as caught:
        ChatTemplate(HOSTILE["a word of its own"], VARIABLES)
    text = str(caught.value)
    assert "'open'" in text and "the template writes '" in text and "sesame" in text and "its derived form '" in text
    assert len(text) < 1500


def test_a_template_that_is_too_long_is_refused_before_a_child() -> None:
    with pytest.raises(BundleError, match=f"at most {MAX_SOURCE} characters"):
        ChatTemplate("a" * (MAX_SOURCE + 1), {})


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("support.children.sleeper", "did not end within 2 s"),
        ("support.children.hoarder", "ended its process"),
        ("support.children.silent", r"ended its process \(exit code 0\)"),
        ("support.children.writer", "ended its process"),
        ("support.children.absent", r"ended its process \(exit code 1\)"),
    ],
)
def test_a_child_that_does_not_answer_is_ended(module: str, message: str) -> None:
    begin = time.monotonic()
    with pytest.raises(confined.Unanswered, match=message):
        confined.run_confined(module, {}, timeout_s=2.0)
    assert time.monotonic() - begin < 10.0


def test_a_child_learns_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    assert "A_SECRET" not in confined.run_confined("support.children.environment", {})


def test_a_child_cannot_start_another_or_write_much() -> None:
    limits = confined.run_confined("support.children.limits", {})
    assert limits == {"files": 16, "size": confined.MAX_REPLY, "processes": 0, "core": 0}


def test_without_jinja_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"edgevlm\[chat\].*edgevlm migrate BUNDLE -o NEW"):
        ChatTemplate(talker.TEMPLATE, VARIABLES)


def test_a_template_may_end_a_dialogue_and_take_no_system_text() -> None:
    family = FAMILIES["gemma"]
    dialogue = ChatTemplate(family.source, family.variables).dialogue
    assert {case.system for case in dialogue.cases} == {False}
    assert "".join(chat_text(dialogue, [Turn("user", " a ")])).startswith("<s><start_of_turn>user\na<end_of_turn>")


def test_the_cache_is_no_place_for_half_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert ChatTemplate(talker.TEMPLATE, VARIABLES).dialogue.cases
    assert list(cache_directory().iterdir()) == []
