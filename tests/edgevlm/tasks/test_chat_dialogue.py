"""Dialogues with a chat remember what was said and shown, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support import talker, tiny
from support.talking import OPTIONS, Opened, by_hand
from tokenizers import Tokenizer

from edgevlm.bundle import open_bundle
from edgevlm.engines import Arrays, Hook, hooked
from edgevlm.errors import (
    EngineError,
    PromptError,
    SessionError,
)
from edgevlm.tasks import Answer, Chat
from edgevlm.tasks.generation_config import collect

LONG = 24  # tokens of an answer


def fails(stage: str) -> None:
    raise EngineError("the engine is out of memory")


def test_a_dialogue_equals_its_prompt_read_at_once(opened: Callable[..., Opened]) -> None:
    chat = opened().chat
    session = chat.session("be short")
    answers = [session.ask(talker.picture(1), "a?", max_new_tokens=3), session.ask(None, "b?", max_new_tokens=3)]
    answers.append(session.ask([talker.picture(2)], "c?", max_new_tokens=3))
    assert [turn.role for turn in session.turns] == ["system", *["user", "assistant"] * 3]
    assert [turn.pictures for turn in session.turns] == [0, 1, 0, 0, 0, 1, 0]
    assert answers[1].reused_tokens >= answers[0].prompt_tokens
    assert answers[2].reused_tokens >= answers[1].prompt_tokens
    # The same dialogue, read by somebody who has read nothing before.
    generator = chat.generator
    question = generator.question(None, "c?", {"max_new_tokens": 3})
    prompt = generator.prompt(session.turns[:-1], session._pictures, question)
    fresh = collect(generator.speak(prompt, question, generator.reader()))
    assert (fresh.token_ids, fresh.reused_tokens) == (answers[2].token_ids, 0)


class Saying(Hook):
    """Stages compute all they should, but for what they find likely: `words` from a place on, then the end."""

    def __init__(self, words: Sequence[int]) -> None:
        self.words, self.begin = words, 0

    def after(self, stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        if stage != "decoder":
            return outputs
        place = int(inputs["positions"][0, -1]) + 1 - self.begin
        logits = np.zeros_like(outputs["logits"])
        logits[0, self.words[place] if 0 <= place < len(self.words) else talker.END] = 1.0
        return {**outputs, "logits": logits}


def test_an_answer_as_models_say_it_is_not_read_again_in_the_next_turn(tmp_path: Path) -> None:
    """They say the space before the first word, which templates write as well."""
    words = Tokenizer.from_file(str(tiny.STAGES / "chat_tokenizer.json"))
    hook = Saying(words.encode(" A red cup.", add_special_tokens=False).ids)
    with Chat(open_bundle(talker.chat(tmp_path / "chat")), OPTIONS, engines=hooked(hook)) as chat:
        hook.begin = len(chat.prepare(talker.picture(1), "what is it?").ids)
        session = chat.session()
        one = session.ask(talker.picture(1), "what is it?", max_new_tokens=LONG)
        assert (one.text, one.ended) == (" A red cup.", "stop")
        assert session.turns[-1].text == "A red cup."
        two = session.ask(None, "where?", max_new_tokens=LONG)
        assert two.reused_tokens == one.prompt_tokens + len(one.token_ids)  # all that the session has read


def test_a_reset_forgets_all_but_the_system_text(opened: Callable[..., Opened]) -> None:
    session = opened().chat.session("be short")
    first = session.ask(None, "a?", max_new_tokens=4)
    session.ask(None, "b?", max_new_tokens=4)
    session.reset()
    assert [turn.role for turn in session.turns] == ["system"]
    again = session.ask(None, "a?", max_new_tokens=4)
    assert (again.token_ids, again.prompt_tokens, again.reused_tokens) == (first.token_ids, first.prompt_tokens, 0)


@pytest.mark.parametrize("how", ["closed", "failed", "refused"])
def test_a_question_that_was_not_answered_leaves_no_trace_in_the_dialogue(
    opened: Callable[..., Opened], how: str
) -> None:
    item = opened()
    session = item.chat.session()
    session.ask(None, "a?", max_new_tokens=4)
    before = session.turns
    if how == "closed":
        speaking = session.stream(talker.picture(1), "b?", max_new_tokens=8)
        next(speaking)
        speaking.close()
    elif how == "failed":
        item.engines.before_run = fails
        with pytest.raises(EngineError):
            session.ask(talker.picture(1), "b?")
        item.engines.before_run = lambda stage: None
    else:
        with pytest.raises(PromptError):
            session.ask(None, "<image>")
    assert session.turns == before
    reported = session.ask(None, "c?", max_new_tokens=4)
    other = item.chat.session()
    other.ask(None, "a?", max_new_tokens=4)
    assert other.ask(None, "c?", max_new_tokens=4).token_ids == reported.token_ids


def test_a_session_is_for_one_answer_at_a_time(opened: Callable[..., Opened]) -> None:
    item = opened()
    session = item.chat.session()
    speaking = session.stream(None, "a?", max_new_tokens=4)
    next(speaking)
    for refused in (lambda: session.ask(None, "b?"), session.reset):
        with pytest.raises(SessionError, match="still coming"):
            refused()
    speaking.close()
    entered, go = threading.Event(), threading.Event()

    def wait(stage: str) -> None:
        entered.set()
        assert go.wait(30)

    item.engines.before_run = wait
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(session.ask, None, "a?", max_new_tokens=2)
        assert entered.wait(30)
        with pytest.raises(SessionError, match="each thread a session"):
            session.ask(None, "b?")
        go.set()
        assert isinstance(asked.result(30), Answer)


def test_a_dialogue_that_grew_too_long_says_so_and_can_begin_anew(opened: Callable[..., Opened]) -> None:
    session = opened().chat.session()
    with pytest.raises(PromptError, match=r"dialogue has \d+ in 13 turns.*reset\(\)"):
        for _ in range(20):
            session.ask(None, "and then?", max_new_tokens=8)
    session.reset()
    session.ask(None, "and then?", max_new_tokens=8)


def test_a_long_prompt_is_cancelled_between_its_parts(opened: Callable[..., Opened]) -> None:
    item = opened()
    cancel, runs = threading.Event(), 0

    def third(stage: str) -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            cancel.set()

    item.engines.before_run = third
    session = item.chat.session()
    text = "a" * 10 * talker.CHUNK
    answer = session.ask(None, text, max_new_tokens=LONG, cancel=cancel)
    assert (answer.ended, answer.text, answer.token_ids, answer.first_token_s) == ("cancelled", "", (), 0.0)
    assert item.engines.runs == {"decoder": 3} and not session.turns
    cancel.clear()
    again = session.ask(None, text, max_new_tokens=LONG, cancel=cancel)
    assert again.reused_tokens == 3 * talker.CHUNK
    assert list(again.token_ids) == by_hand(item.chat, None, text, LONG)
