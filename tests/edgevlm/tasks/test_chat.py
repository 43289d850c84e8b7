"""A chat answers as its stages do, token by token, again and while others ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import talker
from support.talking import Opened, by_hand

from edgevlm.errors import (
    PictureError,
    PromptError,
    TaskError,
)
from edgevlm.preprocess import PicturePreprocessor
from edgevlm.tasks import Answer

LONG = 24  # tokens of an answer


def test_says_the_likeliest_tokens_of_its_stages(opened: Callable[..., Opened]) -> None:
    chat = opened().chat
    for image, text in (
        (talker.picture(1), "what is it?"),
        (None, "hi"),
        ([talker.picture(1), talker.picture(2)], "a?"),
    ):
        answer = chat.ask(image, text, max_new_tokens=LONG)
        assert list(answer.token_ids) == by_hand(chat, image, text, LONG)
        assert answer.ended == "length" and len(answer.token_ids) == LONG
        assert len(set(answer.token_ids)) >= 8


def test_another_picture_or_question_is_answered_otherwise(opened: Callable[..., Opened]) -> None:
    chat = opened().chat
    asked = [(talker.picture(1), "a?"), (talker.picture(2), "a?"), (talker.picture(1), "b?"), (None, "a?")]
    pair = [talker.picture(1), talker.picture(2)]
    asked += [(pair, "a?"), (pair[::-1], "a?")]
    answers = [chat.ask(image, text, max_new_tokens=LONG).token_ids for image, text in asked]
    assert len(set(answers)) == len(answers)


def test_a_path_is_read_as_the_array_it_holds(opened: Callable[..., Opened], tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs the extra vision")
    cv2.imwrite(str(tmp_path / "p.png"), talker.picture(1)[..., ::-1])
    chat = opened().chat
    assert chat.ask(tmp_path / "p.png", "a?").token_ids == chat.ask(talker.picture(1), "a?").token_ids


def test_a_question_again_is_read_from_its_last_token_on(
    opened: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    item = opened()
    prepared: list[Any] = []
    prepare = PicturePreprocessor.__call__
    monkeypatch.setattr(PicturePreprocessor, "__call__", lambda *arguments: prepared.append(0) or prepare(*arguments))
    first = item.chat.ask(talker.picture(1), "what?", max_new_tokens=LONG)
    runs = dict(item.engines.runs)
    again = item.chat.ask(talker.picture(1), "what?", max_new_tokens=LONG)
    assert (again.text, again.token_ids) == (first.text, first.token_ids)
    assert (first.reused_tokens, again.reused_tokens) == (0, first.prompt_tokens - 1)
    assert item.engines.runs == {"vision": runs["vision"], "decoder": runs["decoder"] + LONG}
    assert len(prepared) == 1  # the second time it was opened, and known again
    assert "vision" not in again.times_ns and "vision" in first.times_ns


def test_another_question_about_the_same_picture_reads_only_the_words(opened: Callable[..., Opened]) -> None:
    item = opened()
    one = item.chat.ask(talker.picture(1), "what is it?", max_new_tokens=4)
    two = item.chat.ask(talker.picture(1), "where is it?", max_new_tokens=4)
    read_again = len("at is it?") + 1 + len("\nAssistant:")  # from the first letter that differs, `<end>` is one token
    assert two.reused_tokens == one.prompt_tokens - read_again
    assert item.engines.runs["vision"] == 1
    assert list(two.token_ids) == by_hand(item.chat, talker.picture(1), "where is it?", 4)


def test_the_pictures_met_last_are_not_encoded_again(opened: Callable[..., Opened]) -> None:
    item = opened()
    for seed in (1, 2, 3, 1, 2, 3):
        item.chat.ask(talker.picture(seed), "a?", max_new_tokens=1)
    assert item.engines.runs["vision"] == 3


def test_a_buffer_that_is_written_again_is_another_picture(opened: Callable[..., Opened]) -> None:
    chat = opened().chat
    frame = talker.picture(1)
    session = chat.session()
    session.ask(frame, "a?", max_new_tokens=2)
    frame[:] = talker.picture(2)
    session.ask(frame, "b?", max_new_tokens=2)
    assert chat.stage_runs["vision"] == 2


def test_streams_what_ask_says(opened: Callable[..., Opened]) -> None:
    chat = opened().chat
    answer = chat.ask(talker.picture(1), "what?", max_new_tokens=LONG)
    tokens = list(chat.stream(talker.picture(1), "what?", max_new_tokens=LONG))
    assert "".join(token.text for token in tokens) == answer.text
    assert tuple(token.token_id for token in tokens if token.token_id is not None) == answer.token_ids


def test_a_seed_says_the_same_again_and_another_one_something_else(opened: Callable[..., Opened]) -> None:
    chat = opened().chat
    answers = [chat.ask(None, "a?", max_new_tokens=LONG, temperature=2.0, seed=seed).token_ids for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_ends_at_the_models_sign_and_at_a_stop(opened: Callable[..., Opened]) -> None:
    full = opened().chat.ask(None, "what is it?", max_new_tokens=LONG)
    sign = full.token_ids[5]
    assert sign not in full.token_ids[:5]
    cut = opened(stop_ids=(talker.END, sign)).chat.ask(None, "what is it?", max_new_tokens=LONG)
    assert (cut.token_ids, cut.ended) == (full.token_ids[:5], "stop")
    stop = next(letter for letter in full.text[2:] if letter.isascii() and letter not in full.text[:2])
    ended = opened().chat.ask(None, "what is it?", max_new_tokens=LONG, stop=[stop])
    assert (ended.text, ended.ended) == (full.text[: full.text.index(stop)], "stop")
    assert len(ended.token_ids) < LONG


def test_a_closed_stream_stops_the_work_and_frees_the_chat(opened: Callable[..., Opened]) -> None:
    item = opened()
    speaking = item.chat.stream(None, "a?", max_new_tokens=LONG)
    first = [next(speaking) for _ in range(3)]
    runs = item.engines.runs["decoder"]
    speaking.close()
    assert item.engines.runs["decoder"] == runs
    answer = item.chat.ask(None, "a?", max_new_tokens=LONG)
    assert answer.token_ids[:3] == tuple(token.token_id for token in first)
    assert answer.reused_tokens == answer.prompt_tokens - 1  # what was read before the stream ended still serves


def test_an_answer_that_is_still_coming_disturbs_no_other(opened: Callable[..., Opened]) -> None:
    chat = opened().chat
    alone = {text: chat.ask(None, text, max_new_tokens=LONG).token_ids for text in ("a?", "b?", "c?")}
    one, two = (chat.stream(None, text, max_new_tokens=LONG) for text in ("a?", "b?"))
    mixed: dict[str, list[int | None]] = {"a?": [], "b?": []}
    for step in range(LONG):
        mixed["a?"].append(next(one).token_id)
        mixed["b?"].append(next(two).token_id)
        if step == 3:
            assert chat.ask(None, "c?", max_new_tokens=LONG).token_ids == alone["c?"]
    assert {text: tuple(ids) for text, ids in mixed.items()} == {text: alone[text] for text in mixed}


def test_threads_take_turns_and_get_their_own_answers(opened: Callable[..., Opened]) -> None:
    chat = opened().chat
    texts = [f"question {number}" for number in range(4)]
    alone = [chat.ask(talker.picture(1), text, max_new_tokens=8).token_ids for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            answers = pool.map(lambda text: chat.ask(talker.picture(1), text, max_new_tokens=8).token_ids, texts)
            assert list(answers) == alone


def test_a_model_without_turns_answers_and_refuses_a_dialogue(opened: Callable[..., Opened]) -> None:
    words = {**talker.PLAIN, "needs_picture": True}
    chat = opened(words=words, prefix="bidirectional", first_position=1).chat
    answer = chat.ask(talker.picture(1), "caption", max_new_tokens=LONG)
    assert list(answer.token_ids) == by_hand(chat, talker.picture(1), "caption", LONG, bidirectional=True)
    assert chat.ask(talker.picture(1), "caption", max_new_tokens=LONG).reused_tokens == answer.prompt_tokens - 1
    assert chat.ask(talker.picture(1), "captions", max_new_tokens=2).reused_tokens == 0
    with pytest.raises(TaskError, match="one question at a time"):
        chat.session()
    with pytest.raises(PromptError, match="says nothing without one"):
        chat.ask(None, "caption")


def test_a_cancelled_answer_is_the_text_until_then(opened: Callable[..., Opened]) -> None:
    item = opened()
    full = item.chat.ask(talker.picture(1), "what is it?", max_new_tokens=LONG)
    cancel = threading.Event()
    tokens = item.chat.stream(talker.picture(1), "what is it?", max_new_tokens=LONG, cancel=cancel)
    tokens_read = [next(tokens) for _ in range(3)]
    cancel.set()
    with pytest.raises(StopIteration) as done:
        while True:
            tokens_read.append(next(tokens))  # what had waited for the rest of a character, and no more
    answer = done.value.value
    assert (answer.ended, answer.token_ids) == ("cancelled", full.token_ids[:3])
    assert "".join(token.text for token in tokens_read) == answer.text


def test_a_cancelled_picture_is_not_looked_at(opened: Callable[..., Opened]) -> None:
    item = opened()
    cancel = threading.Event()
    cancel.set()
    assert item.chat.ask(talker.picture(1), "a?", cancel=cancel).ended == "cancelled"
    assert not item.engines.runs


def test_what_a_picture_costs_is_part_of_the_times(opened: Callable[..., Opened], tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs the extra vision")
    cv2.imwrite(str(tmp_path / "large.png"), talker.picture(1, 3000, 4000))
    chat = opened().chat
    chat.ask(tmp_path / "large.png", "a?", max_new_tokens=1)
    started = time.perf_counter_ns()
    answer = chat.ask(tmp_path / "large.png", "a?", max_new_tokens=1)  # known again, but opened and looked at
    spent = time.perf_counter_ns() - started
    assert "vision" not in answer.times_ns
    assert answer.times_ns["preprocess"] > 0.5 * spent
    assert answer.times_ns["preprocess"] < answer.first_token_s * 1e9 < answer.times_ns["step"] <= spent


def test_pictures_are_opened_while_another_answer_is_coming(opened: Callable[..., Opened]) -> None:
    """Only the model has to be waited for: a bad picture is refused at once."""
    item = opened()
    entered, go = threading.Event(), threading.Event()

    def wait(stage: str) -> None:
        entered.set()
        assert go.wait(30)

    item.engines.before_run = wait
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(item.chat.ask, None, "a?", max_new_tokens=2)
        assert entered.wait(30)
        refused = pool.submit(item.chat.ask, "nowhere.png", "a?")
        assert isinstance(refused.exception(30), PictureError)
        go.set()
        assert isinstance(asked.result(30), Answer)


def test_questions_while_an_answer_is_coming_share_one_spare_reader(opened: Callable[..., Opened]) -> None:
    chat = opened().chat
    coming = chat.stream(None, "a?", max_new_tokens=4)
    next(coming)
    one = chat.ask(talker.picture(1), "what is it?", max_new_tokens=2)
    two = chat.ask(talker.picture(1), "what is it?", max_new_tokens=2)
    assert (one.reused_tokens, two.reused_tokens) == (0, one.prompt_tokens - 1)
    coming.close()


def test_times_and_runs_are_reported(opened: Callable[..., Opened]) -> None:
    chat = opened().chat
    answer = chat.ask(talker.picture(1), "a?", max_new_tokens=4)
    assert set(answer.times_ns) == {"preprocess", "vision", "decoder", "step"}
    assert chat.last_times_ns == answer.times_ns
    assert sum(answer.times_ns.values()) - answer.times_ns["step"] <= answer.times_ns["step"]
    assert 0 < answer.first_token_s * 1e9 < answer.times_ns["step"]
    chunks = -(-answer.prompt_tokens // talker.CHUNK)
    assert chat.stage_runs == {"vision": 1, "decoder": chunks + 3}
