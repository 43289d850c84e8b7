"""A chat of the loop `seq2seq` while things go wrong: what is kept, what is forgotten, who waits for whom."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import asker, talker, tiny
from support.talking import OPTIONS, Opened

from edgevlm.bundle import open_bundle
from edgevlm.drivers import Prompt, Seq2SeqDriver
from edgevlm.drivers import seq2seq as driver_module
from edgevlm.engines import Arrays
from edgevlm.errors import BundleError, EngineError, InstructionError, NonFiniteError, PromptError, SessionError
from edgevlm.graph import Value
from edgevlm.tasks import Chat

FEW = 6
BEGIN = (talker.BOS, 65, 66, 67)  # longer than a sign


@pytest.fixture(params=("decoder", "encoder"))
def reader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Opened]:
    def get(reader: str, **args: Any) -> Opened:
        return Opened(asker.chat(tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}", reader, **args))

    return get


def alone(root: Path, image: Any, text: str, count: int = FEW) -> tuple[int, ...]:
    """What a model says that was never asked anything else."""
    with Chat(open_bundle(root), OPTIONS) as chat:
        return chat.ask(image, text, max_new_tokens=count).token_ids


# --- what is read again ---


def test_what_was_read_with_one_question_is_not_used_with_another(opened: Callable[..., Opened]) -> None:
    chat = opened("encoder", begin=BEGIN).chat
    chat.ask(talker.picture(1), "what?", max_new_tokens=FEW)
    other = chat.ask(talker.picture(1), "where is it?", max_new_tokens=FEW)
    assert other.reused_tokens == 0  # the beginning is the same, what it looked at is not
    assert other.token_ids == alone(chat.bundle.root, talker.picture(1), "where is it?")
    again = chat.ask(talker.picture(1), "where is it?", max_new_tokens=FEW)
    assert again.reused_tokens == again.prompt_tokens - 1 and again.token_ids == other.token_ids


@pytest.mark.parametrize("budget", [0, 64 << 20])
def test_two_cameras_in_turn_are_encoded_once_each_and_memory_is_bounded(
    budget: int, opened: Callable[..., Opened], reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "KEPT_BYTES", budget)  # 0: pictures as large as those of real models
    item = opened(reader)
    for _ in range(3):
        for camera in range(4):
            item.chat.ask(talker.picture(camera), "what?", max_new_tokens=1)
    assert item.engines.runs["vision"] == 4
    if reader == "encoder":
        assert item.engines.runs["encoder"] == 4
    item.chat.ask(talker.picture(4), "what?", max_new_tokens=1)
    item.chat.ask(talker.picture(0), "what?", max_new_tokens=1)  # the one that was met least lately
    assert item.engines.runs["vision"] == (6 if budget == 0 else 5)


def test_no_more_is_cached_than_the_manifest_allows_for(opened: Callable[..., Opened], reader: str) -> None:
    driver = opened(reader).chat.generator.driver
    assert isinstance(driver, Seq2SeqDriver)
    retained = driver.memory()._capacity
    assert retained["vision"] == driver_module.KEPT_BYTES // (4 * 4 * talker.WIDTH)  # float32 of four features
    if reader == "encoder":
        assert retained["encoder"] == driver_module.KEPT_BYTES // (4 * asker.MOST * talker.WIDTH)


# --- numbers that are not finite ---


@pytest.mark.parametrize("stage", ["vision", "encoder", "decoder"])
def test_one_run_that_was_not_finite_is_forgotten(stage: str, opened: Callable[..., Opened]) -> None:
    item = opened("encoder")
    chat, left = item.chat, [float("nan"), float("inf")]
    want = alone(chat.bundle.root, talker.picture(2), "what?")

    def spoil(name: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        if not left or name != stage:
            return outputs
        return {name: array + np.float32(left[-1]) for name, array in outputs.items()}

    item.engines.change = spoil
    while left:
        with pytest.raises(NonFiniteError, match=f"stage '{stage}'"):
            chat.ask(talker.picture(2), "what?", max_new_tokens=FEW)
        left.pop()
    assert chat.ask(talker.picture(2), "what?", max_new_tokens=FEW).token_ids == want


# --- an answer that does not come to its end ---


def test_an_answer_is_cancelled_between_words(opened: Callable[..., Opened], reader: str) -> None:
    chat = opened(reader).chat
    full = chat.ask(talker.picture(1), "what?", max_new_tokens=FEW)
    cancel = threading.Event()
    tokens = chat.stream(talker.picture(1), "what?", max_new_tokens=FEW, cancel=cancel)
    first = [next(tokens).token_id, next(tokens).token_id]
    cancel.set()
    with pytest.raises(StopIteration) as done:
        while True:
            next(tokens)
    assert done.value.value.ended == "cancelled" and tuple(first) == full.token_ids[:2]
    assert chat.ask(talker.picture(1), "what?", max_new_tokens=FEW).token_ids == full.token_ids


def test_nothing_is_looked_at_for_an_answer_that_nobody_wants(opened: Callable[..., Opened], reader: str) -> None:
    item, cancel = opened(reader), threading.Event()
    cancel.set()
    answer = item.chat.ask(talker.picture(1), "what?", cancel=cancel)
    assert (answer.ended, answer.token_ids, item.engines.runs) == ("cancelled", (), {})


def test_a_stream_that_is_closed_leaves_the_chat_as_it_was(opened: Callable[..., Opened], reader: str) -> None:
    chat = opened(reader).chat
    tokens = chat.stream(talker.picture(1), "what?", max_new_tokens=FEW)
    next(tokens)
    tokens.close()
    want = alone(chat.bundle.root, talker.picture(2), "why?")
    assert chat.ask(talker.picture(2), "why?", max_new_tokens=FEW).token_ids == want


def test_a_chat_that_is_closed_ends_the_answer_that_is_coming(opened: Callable[..., Opened], reader: str) -> None:
    chat = opened(reader).chat
    tokens = chat.stream(talker.picture(1), "what?", max_new_tokens=FEW)
    next(tokens)
    chat.close()
    with pytest.raises(SessionError, match="closed"):
        list(tokens)
    with pytest.raises(SessionError, match="closed"):
        chat.ask(talker.picture(1), "what?")


@pytest.mark.parametrize("run", [1, 2, 3])
def test_an_engine_that_fails_in_the_middle_leaves_nothing_wrong(
    run: int, opened: Callable[..., Opened], reader: str
) -> None:
    item = opened(reader)
    left = [run]

    def before(stage: str) -> None:
        left[0] -= stage == "decoder"
        if stage == "decoder" and left[0] == 0:
            raise EngineError("the engine failed")

    item.engines.before_run = before
    with pytest.raises(EngineError):
        item.chat.ask(talker.picture(1), "what?", max_new_tokens=FEW)
    want = alone(item.chat.bundle.root, talker.picture(1), "what?")
    assert item.chat.ask(talker.picture(1), "what?", max_new_tokens=FEW).token_ids == want
    assert item.engines.runs["vision"] == 1


def test_threads_get_their_own_answers(opened: Callable[..., Opened], reader: str) -> None:
    chat = opened(reader).chat
    asked = [(seed, text) for seed in (1, 2) for text in ("what?", "where?")]
    want = {one: alone(chat.bundle.root, talker.picture(one[0]), one[1]) for one in asked}
    wrong: list[Any] = []

    def work(turn: int) -> None:
        for i in range(8):
            one = asked[(turn + i) % len(asked)]
            image = talker.picture(one[0])
            if turn % 2:
                got = chat.ask(image, one[1], max_new_tokens=FEW).token_ids
            else:
                streamed = [token.token_id for token in chat.stream(image, one[1], max_new_tokens=FEW)]
                got = tuple(token for token in streamed if token is not None)
            if got != want[one]:
                wrong.append((one, got))

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads) and wrong == [] and len(set(want.values())) > 2


# --- questions and manifests ---


def test_the_longest_question_is_the_same_whatever_answers_begin_with(opened: Callable[..., Opened]) -> None:
    for begin in ((talker.BOS,), BEGIN):
        chat = opened("decoder", begin=begin).chat
        ids = chat.prepare(talker.picture(1), "x" * asker.MOST).ids
        assert ids[: len(begin)] == begin and len(ids) == len(begin) + asker.MOST
        with pytest.raises(PromptError, match=f"at most {asker.MOST} tokens, got {asker.MOST + 1};"):
            chat.prepare(talker.picture(1), "x" * (asker.MOST + 1))


def test_words_that_no_token_can_be_read_of_are_none(tmp_path: Path) -> None:
    root = asker.chat(tmp_path / "bundle", "encoder")
    silent = {"type": "Replace", "pattern": {"Regex": "[\u200b\u0000]"}, "content": ""}

    tokenizer = json.loads((root / "tokenizer.json").read_text())
    tiny.refile(root, "tokenizer.json", json.dumps({**tokenizer, "normalizer": silent}).encode())
    with Chat(open_bundle(root), OPTIONS) as chat:
        for text in ("\u200b", "\x00\x00"):
            with pytest.raises(InstructionError, match="expected words"):
                chat.ask(talker.picture(1), text)
        assert chat.ask(talker.picture(1), "a\u200b", max_new_tokens=2).token_ids


def _dynamic(stage: str, symbol: str, sizes: list[int]) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["stages"][stage]["dynamic"].update({symbol: sizes})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["question"].update(max_tokens=25), r"question.max_tokens: expected at most 24.*got 25"),
        (_dynamic("encoder", "asked", [1, 8, 20]), r"expected dynamic 'asked' \(1, 8, 20\), as 'encoder'"),
        (_dynamic("decoder", "asked", [1, 8, 12]), r"'decoder': expected dynamic 'asked'"),
        (lambda d: d["driver"]["args"].update(begin=[65] * talker.SLOTS), "fewer tokens than the 256 slots"),
        (lambda d: d["stages"]["encoder"]["inputs"][0].update(shape=[1, 8]), r"ids \(1, L\) of any length"),
    ],
)
def test_a_manifest_that_some_questions_would_break_is_refused(edit: Any, message: str, tmp_path: Path) -> None:
    root = asker.chat(tmp_path / "bundle", "encoder")
    tiny.rewrite(root, edit)
    with pytest.raises(BundleError, match=message):
        open_bundle(root)


def test_a_driver_that_read_another_question_says_what_a_new_one_says(opened: Callable[..., Opened]) -> None:
    chat = opened("encoder", begin=BEGIN).chat
    driver = chat.generator.driver
    prepared = chat.prepare(talker.picture(1), "what?")
    pixels = {"one": Value("one", prepared.pixels[0])}
    cache, memory = driver.cache(), driver.memory()
    driver.read(Prompt(BEGIN, pixels, prepared.ids), cache, memory)
    retained, _ = driver.read(Prompt(BEGIN, pixels, prepared.ids[::-1]), cache, memory)
    fresh, _ = driver.read(Prompt(BEGIN, pixels, prepared.ids[::-1]), driver.cache(), driver.memory())
    np.testing.assert_array_equal(retained, fresh)
