"""Streaming text: the pieces are the text, characters are whole, and nothing of a stop is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tiny
from tokenizers import Tokenizer

from edgevlm.errors import ContractError
from edgevlm.text import StreamingDetokenizer

FAST = Tokenizer.from_file(str(tiny.STAGES / "chat_tokenizer.json"))
BROKEN = "\N{REPLACEMENT CHARACTER}"


def decode(ids: list[int]) -> str:
    text: str = FAST.decode(ids, skip_special_tokens=True)
    return text


def ids_of(text: str) -> list[int]:
    ids: list[int] = FAST.encode(text, add_special_tokens=False).ids
    return ids


def say(ids: list[int], *stops: str) -> tuple[list[str], StreamingDetokenizer]:
    speech = StreamingDetokenizer(decode, stops)  # type: ignore[arg-type]
    pieces = []
    for token in ids:
        pieces.append(speech.add(token))
        if speech.stopped:
            break
    return [*pieces, speech.finish()], speech


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_the_pieces_of_any_script_are_the_text(text: str) -> None:
    pieces, speech = say(ids_of(text))
    assert "".join(pieces) == text == speech.text
    if BROKEN not in text:
        assert not any(BROKEN in piece for piece in pieces)


@given(st.lists(st.integers(0, 271), max_size=40))
def test_any_tokens_give_what_the_tokenizer_makes_of_all_of_them(ids: list[int]) -> None:
    pieces, speech = say(ids)
    assert "".join(pieces) == decode(ids) == speech.text
    assert speech.token_ids == ids


@given(
    before=st.text("abé€", max_size=12), stop=st.text("abé€", min_size=1, max_size=4), after=st.text("abé€", max_size=6)
)
def test_nothing_of_a_stop_is_shown_and_nothing_before_it_is_lost(before: str, stop: str, after: str) -> None:
    whole = before + stop + after
    pieces, speech = say(ids_of(whole), stop)
    assert speech.stopped
    assert "".join(pieces) == whole[: whole.index(stop)]
    assert decode(speech.token_ids).endswith(stop)


@given(text=st.text("ab", max_size=12), stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_what_only_began_like_a_stop_is_shown_in_the_end(text: str, stops: list[str]) -> None:
    pieces, speech = say(ids_of(text), *stops)
    places = [text.index(stop) for stop in stops if stop in text]
    assert speech.stopped == bool(places)
    if not places:
        assert "".join(pieces) == text


def test_a_character_of_four_tokens_comes_at_once() -> None:
    pieces, _ = say(ids_of("a🙂b"))
    assert pieces == ["a", "", "", "", "🙂", "b", ""]


def test_an_answer_that_is_cut_inside_a_character_says_so() -> None:
    pieces, _ = say(ids_of("a🙂")[:-1])
    assert pieces[0] == "a" and set(pieces[-1]) == {BROKEN}


@pytest.mark.parametrize("stops", ["end", ("",), ("a", 3)])
def test_stops_that_are_none_are_refused(stops: object) -> None:
    with pytest.raises(ContractError, match="stop"):
        StreamingDetokenizer(decode, stops)  # type: ignore[arg-type]
