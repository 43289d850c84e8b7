"""A dialogue by its literals: every text and picture stands once and in order, and nothing else is said of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import talker

from edgevlm.errors import PromptError
from edgevlm.manifest.text import DialogueSpec
from edgevlm.text.chat_text import Turn, chat_text
from edgevlm.text.sample_dialogues import sample_dialogues

SPEC = DialogueSpec(**talker.DIALOGUE)
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.strip)
QUESTIONS = st.builds(Turn, st.just("user"), TEXTS, st.integers(0, 4))
ANSWERS = st.builds(Turn, st.just("assistant"), TEXTS)


@st.composite
def dialogues(draw: Any) -> list[Turn]:
    turns = [Turn("system", draw(TEXTS))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 3))):
        turns += [draw(QUESTIONS), draw(ANSWERS)]
    return [*turns, draw(QUESTIONS)]


@given(dialogues())
def test_every_picture_cuts_the_text_and_every_text_stands_in_its_place(turns: list[Turn]) -> None:
    pieces = chat_text(SPEC, turns)
    assert len(pieces) == 1 + sum(turn.pictures for turn in turns)
    want = "<bos>"
    for turn in turns:
        want += turn.role.capitalize() + ":" + "<image>" * turn.pictures + f" {turn.text}<end>\n"
    assert "<image>".join(pieces) == want + "Assistant:"


@given(st.lists(st.sampled_from(("system", "user", "assistant")), max_size=6))
def test_a_dialogue_ends_with_a_question_and_answers_follow_questions(roles: list[Any]) -> None:
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    right = spoken[-1:] == ["user"] and "system" not in spoken and spoken[0] == "user"
    right = right and all(pair != ("assistant", "assistant") for pair in pairwise(spoken))
    turns = [Turn(role, "x") for role in roles]
    if right:
        assert chat_text(SPEC, turns)
    else:
        with pytest.raises(PromptError, match="expected a system text or none"):
            chat_text(SPEC, turns)


def test_pictures_belong_to_users() -> None:
    with pytest.raises(PromptError, match="pictures in a user's turns alone"):
        chat_text(SPEC, [Turn("system", "x", 1), Turn("user", "y")])


def changed(**more: Any) -> DialogueSpec:
    return DialogueSpec(**{**talker.DIALOGUE, **more})


def test_a_combination_that_the_template_refuses_is_refused_with_the_way_out() -> None:
    cases = [case for case in talker.DIALOGUE["cases"] if not case["system"] and case["pictures"]]
    spec = changed(cases=tuple(cases))
    assert chat_text(spec, [Turn("user", "x", 1)])
    with pytest.raises(PromptError, match="takes no system text with pictures; say it in the question"):
        chat_text(spec, [Turn("system", "s"), Turn("user", "x", 1)])
    with pytest.raises(PromptError, match="takes no words without pictures; show a picture"):
        chat_text(spec, [Turn("user", "x")])


def test_a_gap_that_the_template_refuses_is_refused() -> None:
    gaps = {"begin-user": {"text": ""}, "user-end": {"text": ""}}
    spec = changed(cases=({"system": False, "pictures": False, "gaps": gaps},))
    assert chat_text(spec, [Turn("user", "x")]) == ["x"]
    with pytest.raises(PromptError, match="refuses what stands between 'user' and 'assistant'"):
        chat_text(spec, [Turn("user", "x"), Turn("assistant", "y"), Turn("user", "z")])


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_blank_text_is_written_left_out_or_refused(text: str) -> None:
    turns = [Turn("system", text), Turn("user", "x")]
    assert chat_text(SPEC, turns) == [f"<bos>System: {text}<end>\nUser: x<end>\nAssistant:"]
    assert chat_text(changed(blank={"system": "left_out"}), turns) == chat_text(SPEC, turns[1:])
    with pytest.raises(PromptError, match="expected words of the system, got none"):
        chat_text(changed(blank={}), turns)


@pytest.mark.parametrize(
    ("strip", "rest"), [("none", " \n\u3000"), ("whitespace", ""), ("newlines", " \n\u3000"), ("spaces", "\n\u3000")]
)
def test_a_gap_strips_its_neighbours_and_no_other_text(strip: str, rest: str) -> None:
    gaps = {"begin-user": {"text": "<", "strip_after": strip}, "user-end": {"text": ">"}}
    spec = changed(cases=({"system": False, "pictures": False, "gaps": gaps},))
    assert chat_text(spec, [Turn("user", " \n\u3000x \n\u3000")]) == [f"<{rest}x \n\u3000>"]


def test_generated_dialogues_are_many_distinct_and_the_same_every_time() -> None:
    one = sample_dialogues(3, 200, ["<lit>"])
    assert one == sample_dialogues(3, 200, ["<lit>"]) != sample_dialogues(4, 200, ["<lit>"])
    assert len(set(one)) == 200
    turns = [turn for dialogue in one for turn in dialogue]
    assert {turn.pictures for turn in turns} >= {0, 1, 2, 5} and max(len(dialogue) for dialogue in one) > 12
    assert any(turn.text == "" for turn in turns) and any("<lit>" in turn.text for turn in turns)
    assert {dialogue[0].role for dialogue in one} == {"system", "user"}
