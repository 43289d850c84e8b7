"""The command line on a chat: one answer, a dialogue on standard input, inspect and profile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
from support import talker, tiny

import edgevlm
from edgevlm import errors

FEW = ("--max-new-tokens", "6")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return talker.chat(tmp_path / "bundle")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "front.png"
    assert cv2.imwrite(str(path), talker.picture(1)[..., ::-1])
    return path


def process(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run `edgevlm` as a process of its own, with `stdin` on its standard input."""
    command = [sys.executable, "-m", "edgevlm.cli", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=120)


def figures(*arguments: str | Path, stdin: str = "") -> Any:
    done = process(*arguments, "--json", "-", stdin=stdin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_run_answers_as_the_api_does(bundle: Path, picture: Path) -> None:
    arguments = ("run", bundle, "--image", picture, "--text", "what?", *FEW)
    output = figures(*arguments)
    with edgevlm.load_chat(bundle) as chat:
        answer = chat.ask(talker.picture(1), "what?", max_new_tokens=6)
        dice = chat.ask(talker.picture(1), "what?", max_new_tokens=6, temperature=2.0, seed=7)
    assert (tuple(output["token_ids"]), output["text"]) == (answer.token_ids, answer.text)
    assert output["ended"] == "length" and output["prompt_tokens"] == answer.prompt_tokens
    warm = figures(*arguments, "--temperature", "2", "--seed", "7")
    assert tuple(warm["token_ids"]) == dice.token_ids != answer.token_ids
    broken = "\N{REPLACEMENT CHARACTER}"
    visible = [letter if letter.isprintable() or letter in "\n\t" else broken for letter in answer.text]
    assert process(*arguments).stdout == "".join(visible) + "\n"


def test_run_answers_without_a_picture(bundle: Path) -> None:
    with edgevlm.load_chat(bundle) as chat:
        want = chat.ask(None, "hi", max_new_tokens=6).token_ids
    assert tuple(figures("run", bundle, "--text", "hi", *FEW)["token_ids"]) == want


def test_a_dialogue_is_a_session_and_goes_on_after_a_fault(bundle: Path, picture: Path) -> None:
    lines = f"hi\n\n/image {picture}\nwhat?\n/image nowhere.png\n/fly\n<image>\nand?\n/reset\nhi\n/quit\nnever\n"
    done = process("run", bundle, "--chat", *FEW, stdin=lines)
    assert done.returncode == 0
    for fault in ("PictureError", "ContractError: /fly", "PromptError"):
        assert fault in done.stderr
    output = figures("run", bundle, "--chat", *FEW, stdin=lines)["turns"]
    with edgevlm.load_chat(bundle) as chat:
        session = chat.session()
        want = [session.ask(None, "hi", max_new_tokens=6), session.ask(talker.picture(1), "what?", max_new_tokens=6)]
        want.append(session.ask(None, "and?", max_new_tokens=6))
    assert [tuple(turn["token_ids"]) for turn in output] == [one.token_ids for one in (*want, want[0])]
    assert [(turn["question"], turn["pictures"]) for turn in output] == [
        ("hi", 0),
        ("what?", 1),
        ("and?", 0),
        ("hi", 0),
    ]


def test_what_a_model_says_cannot_command_a_terminal(bundle: Path) -> None:
    # The bytes of this answer are any; those that a terminal would obey are shown as a broken character.
    printed = process("run", bundle, "--text", "what is it?", "--max-new-tokens", "64").stdout
    with edgevlm.load_chat(bundle) as chat:
        reply = chat.ask(None, "what is it?", max_new_tokens=64).text
    assert any(not letter.isprintable() for letter in reply.replace("\n", "").replace("\t", ""))
    assert all(letter.isprintable() or letter in "\n\t" for letter in printed)


def test_inspect_and_profile_know_chats(bundle: Path) -> None:
    output = process("inspect", bundle)
    assert output.returncode == 0
    for words in ("a dialogue of system, user, assistant", "256 tokens", "the last 5 tokens", "in runs of 8"):
        assert words in output.stdout
    profiled = figures("profile", bundle, "--steps", "3", "--warmup", "1")
    assert set(profiled["stages"]) == {"preprocess", "vision", "decoder"}
    assert set(profiled["chat"]) == {"first token", "first token, same picture", "next token"}
    assert profiled["chat"]["first token, same picture"]["n"] == profiled["step_ms"]["n"] == 3
    assert "same picture" in process("profile", bundle, "--steps", "1", "--warmup", "0").stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("--image", "PICTURE"), 2),
        (("--text", "a", "--text", "b"), 2),
        (("--chat", "--text", "a"), 2),
        (("--text", "<image>"), errors.PromptError.exit_code),
        (("--text", " "), errors.InstructionError.exit_code),
        (("--text", "a" * 300), errors.PromptError.exit_code),
        (("--text", "a", "--image", "nowhere.png"), errors.PictureError.exit_code),
        (("--text", "a", "--top-p", "0"), errors.ContractError.exit_code),
        (("--sim",), errors.TaskError.exit_code),
    ],
)
def test_faults_of_asking_a_chat(bundle: Path, picture: Path, arguments: tuple[str, ...], code: int) -> None:
    done = process("run", bundle, *(str(picture) if one == "PICTURE" else one for one in arguments))
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr


def test_a_dialogue_is_for_chats_that_know_turns(tmp_path: Path) -> None:
    for root in (tiny.dual(tmp_path / "dual"), talker.chat(tmp_path / "plain", words=talker.PLAIN)):
        done = process("run", root, "--chat", stdin="hi\n")
        assert done.returncode == errors.TaskError.exit_code and "Traceback" not in done.stderr
