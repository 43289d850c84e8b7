"""A chat whose decoder looks at its picture: what is read once, what is never mixed up, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support import asker, talker, tiny
from support.talking import OPTIONS, Opened
from typer.testing import CliRunner

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.cli.app import app
from edgevlm.drivers import KVCache, Prompt, Seq2SeqDriver
from edgevlm.engines import Arrays
from edgevlm.errors import (
    BundleError,
    ContractError,
    InstructionError,
    NonFiniteError,
    PictureError,
    PromptError,
    TaskError,
)
from edgevlm.graph import Value
from edgevlm.tasks import Chat

READERS = ("decoder", "encoder")
FEW = 6


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Opened]:
    def get(reader: str, **args: Any) -> Opened:
        return Opened(asker.chat(tmp_path / f"bundle-{reader}-{len(list(tmp_path.iterdir()))}", reader, **args))

    return get


def anew(chat: Chat, image: Any, text: str, count: int) -> tuple[int, ...]:
    """Greedy tokens by the driver alone: all is read anew, in one row, for every token."""
    driver, ids = chat.generator.driver, chat.prepare(image, text).ids
    (pixels,) = chat.prepare(image, text).pixels
    begin = (talker.BOS,) if chat.needs_text else ids
    tokens: list[int] = []
    while len(tokens) < count:
        prompt = Prompt((*begin, *tokens), {"picture": Value("picture", pixels)}, ids if chat.needs_text else ())
        logits, _ = driver.read(prompt, driver.cache(), driver.memory())
        if int(np.argmax(logits)) == talker.END:
            break
        tokens.append(int(np.argmax(logits)))
    return tuple(tokens)


def test_an_answer_is_what_reading_all_anew_for_every_word_says(opened: Callable[..., Opened], reader: str) -> None:
    chat = opened(reader).chat
    answers = set()
    for seed, text in ((1, "what is it?"), (1, "where?"), (2, "what is it?"), (1, "what is it?")):
        answer = chat.ask(talker.picture(seed), text, max_new_tokens=FEW)
        assert answer.token_ids == anew(chat, talker.picture(seed), text, FEW)
        answers.add(answer.token_ids)
    assert len(answers) == 3  # pictures and questions matter


def test_a_beginning_longer_than_a_run_is_read_in_runs(opened: Callable[..., Opened]) -> None:
    item = opened("decoder")
    text = "a photo of a dog at the"
    answer = item.chat.ask(talker.picture(1), text, max_new_tokens=1)
    assert answer.prompt_tokens == 1 + len(text) and item.chat.stage_runs["decoder"] == 3  # 8 tokens each
    assert answer.token_ids == anew(item.chat, talker.picture(1), text, 1)


def test_the_picture_is_encoded_once_for_all_questions(opened: Callable[..., Opened], reader: str) -> None:
    chat = opened(reader).chat
    first = chat.ask(talker.picture(1), "what?", max_new_tokens=2)
    again = chat.ask(talker.picture(1), "what?", max_new_tokens=2)
    other = chat.ask(talker.picture(1), "where?", max_new_tokens=2)
    assert chat.stage_runs["vision"] == 1 and first.token_ids == again.token_ids
    assert first.reused_tokens == 0 and again.reused_tokens == again.prompt_tokens - 1
    assert "vision" not in other.times_ns
    if reader == "encoder":
        assert chat.stage_runs["encoder"] == 2 and other.reused_tokens == 0
    else:
        assert other.reused_tokens == 3  # the sign that every answer begins with, then "wh"


def test_nothing_that_was_read_with_one_picture_is_used_with_another(
    opened: Callable[..., Opened], reader: str
) -> None:
    chat = opened(reader).chat
    chat.ask(talker.picture(1), "what?", max_new_tokens=4)
    other = chat.ask(talker.picture(2), "what?", max_new_tokens=4)
    assert other.reused_tokens == 0 and other.token_ids == anew(chat, talker.picture(2), "what?", 4)


def test_a_stream_says_what_ask_says(opened: Callable[..., Opened], reader: str) -> None:
    chat = opened(reader).chat
    answer = chat.ask(talker.picture(1), "what?", max_new_tokens=FEW)
    tokens = [token.token_id for token in chat.stream(talker.picture(1), "what?", max_new_tokens=FEW)]
    assert tuple(token for token in tokens if token is not None) == answer.token_ids


def test_words_are_needed_where_the_manifest_says_so(opened: Callable[..., Opened]) -> None:
    captions, answers = opened("decoder").chat, opened("encoder").chat
    assert not captions.needs_text and answers.needs_text
    assert captions.ask(talker.picture(1), max_new_tokens=2).prompt_tokens == 1
    with pytest.raises(InstructionError, match="expected words"):
        answers.ask(talker.picture(1))


def test_a_question_that_does_not_fit_is_refused(opened: Callable[..., Opened], reader: str, tmp_path: Path) -> None:
    chat = opened(reader).chat
    picture = talker.picture(1)
    with pytest.raises(PromptError, match="expected a picture"):
        chat.ask(None, "what?")
    with pytest.raises(PromptError, match="at most 1 picture"):
        chat.ask([picture, picture], "what?")
    with pytest.raises(PromptError, match=rf"at most {asker.MOST} tokens, got"):
        chat.ask(picture, "what is this, and what is that, and why?")
    with pytest.raises(PromptError, match="sign of the model's own"):
        chat.ask(picture, "what <bos>?")
    with pytest.raises(InstructionError, match="expected words"):
        chat.ask(picture, 7)
    with pytest.raises(ContractError, match="max_new_tokens"):
        chat.ask(picture, "what?", max_new_tokens=talker.SLOTS)
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(PictureError):
        chat.ask(tmp_path / "no.png", "what?")
    with pytest.raises(TaskError, match="one question at a"):
        chat.session()


def test_a_picture_whose_features_overflow_is_refused_and_nothing_is_cached_of_it(
    opened: Callable[..., Opened], reader: str
) -> None:
    item = opened(reader)
    chat = item.chat
    good = chat.ask(talker.picture(1), "what?", max_new_tokens=4)

    def overflow(stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        return {name: array * np.float32("inf") for name, array in outputs.items()} if stage == "vision" else outputs

    item.engines.change = overflow
    for _ in range(2):
        with pytest.raises(NonFiniteError, match="stage 'vision'"):
            chat.ask(talker.picture(2), "what?", max_new_tokens=4)
    assert chat.ask(talker.picture(1), "what?", max_new_tokens=4).token_ids == good.token_ids


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def test_load_gives_a_chat_and_the_command_line_asks_it(tmp_path: Path, reader: str) -> None:
    root, picture, figures = asker.chat(tmp_path / "bundle", reader), tmp_path / "front.png", tmp_path / "figures.json"
    text = "what?" if reader == "encoder" else ""
    with edgevlm.load(root) as chat:
        assert isinstance(chat, Chat)
        answer = chat.ask(talker.picture(1), text, max_new_tokens=FEW)
    assert cv2.imwrite(str(picture), talker.picture(1)[..., ::-1])
    asked = ("--text", text) if text else ()
    run("run", root, "--image", picture, *asked, "--max-new-tokens", str(FEW), "--json", figures)
    reported = json.loads(figures.read_text())
    assert tuple(reported["token_ids"]) == answer.token_ids and reported["question"] == text
    displayed = run("inspect", root)
    assert "begins with" in displayed and ("may be empty" in displayed) == (not text)
    assert "same picture" in run("profile", root, "--steps", "1", "--warmup", "0")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["question"].update(reader="encoder"), "reader"),
        (lambda d: d["driver"]["args"].update(begin=[]), "begin"),
        (lambda d: d["driver"]["args"].update(vision="decoder"), "pixels as its one input"),
        (lambda d: d["stages"]["vision"]["outputs"][0].update(name="other"), "expected the outputs of 'vision'"),
        (lambda d: d.update(question=None), r"needs \['question'\]"),
    ],
)
def test_a_manifest_whose_parts_do_not_fit_is_refused(edit: Any, message: str, tmp_path: Path) -> None:
    root = asker.chat(tmp_path / "bundle")
    tiny.rewrite(root, edit)
    with pytest.raises(BundleError, match=message):
        open_bundle(root)


def test_embeddings_without_the_first_sign_are_refused(tmp_path: Path) -> None:
    root = asker.chat(tmp_path / "bundle", begin=(5000,))
    with pytest.raises(BundleError, match="ids that an answer begins with"):
        Chat(open_bundle(root), OPTIONS)


def test_a_cleared_cache_looks_at_nothing(opened: Callable[..., Opened]) -> None:
    chat = opened("decoder").chat
    driver = chat.generator.driver
    assert isinstance(driver, Seq2SeqDriver)
    cache: KVCache = driver.cache()
    prompt = Prompt((talker.BOS,), {"a": Value("a", chat.prepare(talker.picture(1), "").pixels[0])})
    driver.read(prompt, cache, driver.memory())
    assert set(cache.cross_attention.arrays) == {"features"} and cache.length == 1
    cache.clear()
    assert not cache.cross_attention.arrays and cache.length == 0
