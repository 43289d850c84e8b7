"""Who may say what the robot is to do, for any order of words, goals and ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevlm.errors import InstructionError
from edgevlm.loop.instructions import LONGEST, Instructions

KNOWN = {"lift", "push", "open"}
texts = st.sampled_from([*KNOWN, "", "  ", "dance", "lift push", "x" * (LONGEST + 1)])
moves = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["topic", "service"]), texts),
        st.tuples(st.just("goal"), texts),
        st.tuples(st.just("end"), st.integers(0, 6)),
        st.tuples(st.just("clear"), st.just("")),
    ),
    max_size=40,
)


def check(text: str) -> None:
    assert len(text) <= LONGEST, "a tokenizer must never see it"
    unknown = set(text.split()) - KNOWN
    if unknown or not text.split():
        raise InstructionError(f"never taught {unknown}")


def known(text: str) -> bool:
    return bool(text.split()) and set(text.split()) <= KNOWN


@given(moves)
def test_a_goal_rules_alone_the_latest_of_the_others_wins_and_after_a_goal_there_is_silence(
    requests: list[tuple[str, object]],
) -> None:
    instructions = Instructions(check)
    source, text, goals = "none", None, 0  # what must be in force
    for kind, value in requests:
        if kind == "end":
            assert isinstance(value, int)
            ended = source == "goal" and value == goals
            assert instructions.end(value) == ended
            source, text = ("none", None) if ended else (source, text)
        elif kind == "clear":
            instructions.clear()
            source, text = "none", None
        elif kind == "goal":
            if known(str(value)):
                goals += 1
                assert instructions.begin(str(value)) == goals
                source, text = "goal", str(value)
            else:
                with pytest.raises(InstructionError):
                    instructions.begin(str(value))
        else:
            reason = instructions.say(kind, str(value))  # type: ignore[arg-type]
            taken = source != "goal" and (known(str(value)) or not str(value).strip())
            assert (reason == "") == taken
            if taken:
                source, text = (kind, str(value)) if str(value).strip() else ("none", None)
        assert (instructions.source, instructions.text) == (source, text)
        assert instructions.goal == (goals if source == "goal" else None)
    spoken = sum(kind in ("topic", "service", "goal") for kind, _ in requests)
    counted = sum(n for key, n in instructions.counts.items() if not key.endswith("preempted"))
    assert counted == spoken, "each is counted once"


def test_the_reasons_tell_a_goal_from_unknown_words() -> None:
    instructions = Instructions(check)
    assert "dance" in instructions.say("service", "dance")
    first = instructions.begin("lift")
    assert "a goal is under way ('lift')" in instructions.say("service", "push")
    second = instructions.begin("open")
    assert not instructions.end(first) and instructions.text == "open"
    assert instructions.end(second) and instructions.text is None
    assert dict(instructions.counts) == {
        "service.refused": 1, "service.ignored": 1, "goal.taken": 2, "goal.preempted": 1,
    }  # fmt: skip


def test_empty_text_makes_the_robot_idle() -> None:
    instructions = Instructions(check)
    assert instructions.say("topic", "push") == "" and instructions.text == "push"
    assert instructions.say("service", " ") == "" and instructions.text is None
