"""Streaming text: the pieces are the text, characters are whole, and nothing of a stop is ever shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tiny
from tokenizers import Regex, Tokenizer, decoders, models

from edgevlm.errors import ContractError
from edgevlm.text import StreamingDetokenizer
from edgevlm.text.streaming import RETAINED, TokenDecoder, check_stops

FAST = Tokenizer.from_file(str(tiny.STAGES / "chat_tokenizer.json"))
BROKEN = "\N{REPLACEMENT CHARACTER}"


def decode(ids: list[int]) -> str:
    text: str = FAST.decode(ids, skip_special_tokens=True)
    return text


def ids_of(text: str) -> list[int]:
    ids: list[int] = FAST.encode(text, add_special_tokens=False).ids
    return ids


def decoder_of(fast: Tokenizer) -> TokenDecoder:
    return TokenDecoder(fast, json.loads(fast.to_str()))


def say(ids: list[int], *stops: str) -> tuple[list[str], StreamingDetokenizer]:
    speech = StreamingDetokenizer(decoder_of(FAST), stops)
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
def test_nothing_of_a_stop_is_emitted_and_nothing_before_it_is_lost(before: str, stop: str, after: str) -> None:
    full = before + stop + after
    pieces, speech = say(ids_of(full), stop)
    assert speech.stopped
    assert "".join(pieces) == full[: full.index(stop)]
    assert decode(speech.token_ids).endswith(stop)


@given(text=st.text("ab", max_size=12), stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_what_only_began_like_a_stop_is_emitted_in_the_end(text: str, stops: list[str]) -> None:
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
        StreamingDetokenizer(decoder_of(FAST), stops)  # type: ignore[arg-type]


# --- the window gives what decoding all of the answer at every token gives ---


class Reference:
    """Decodes the whole answer for each token: quadratic, and plainly right."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str], begun: Sequence[int] = ()) -> None:
        self.decode, self.stops, self.begun = decode, stops, list(begun)
        self.before = decode(self.begun)
        self.ids: list[int] = []
        self.text = ""
        self.stopped = False

    def all(self) -> str:
        text = self.decode(self.begun + self.ids)
        pairs = zip(self.before, text, strict=False)
        return text[sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) :]

    def add(self, token: int) -> str:
        self.ids.append(token)
        text = self.all()
        positions = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if positions:
            self.stopped = True
            return self.give(text[: min(positions)])
        certain = text.rstrip(BROKEN)
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        lengths = range(min(longest, len(certain)), 0, -1)
        starts = (length for length in lengths if any(stop.startswith(certain[-length:]) for stop in self.stops))
        waiting = max(next(starts, 0), 2 if certain.endswith(" '") else 0)
        return self.give(certain[: len(certain) - waiting])

    def finish(self) -> str:
        return "" if self.stopped else self.give(self.all())

    def give(self, text: str) -> str:
        new = text[len(self.text) :]
        self.text += new
        return new


WORDS = ["dog", "key", "##board", "##s", "'", "s", "n't", "do", "re", ".", ",", "it", "!", "é"]
SPACED = ["▁", "▁▁", "▁dog", "▁key", "s", "é", "'", "▁'", ".", "\N{SLIGHTLY SMILING FACE}"]
BYTES = ["<0x0A>", "<0x41>", "<0xC3>", "<0xA9>", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "<0xFF>"]
SUFFIXED = ["dog</w>", "key", "</w>", "s</w>", "'</w>", "."]
CLEANED = [(" .", "."), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 's", "'s")]


def tokenizer(words: Sequence[str], decoder: Any) -> Tokenizer:
    fast = Tokenizer(models.WordLevel({word: place for place, word in enumerate((*words, "[UNK]"))}, "[UNK]"))
    if decoder is not None:
        fast.decoder = decoder
    fast.add_special_tokens(["<s>"])
    fast.add_tokens(["added"])
    return fast


def cleaned(decoder: Any) -> Any:
    return decoders.Sequence([decoder, decoders.Fuse(), *(decoders.Replace(*pair) for pair in CLEANED)])


def unprefixed() -> Any:
    """A decoder that keeps a first space, by the name that this release of tokenizers has for it."""
    try:
        return decoders.Metaspace(prepend_scheme="never")
    except TypeError:  # before 0.19
        return decoders.Metaspace(add_prefix_space=False)


FALLBACK = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
KINDS = {
    "byte-level": FAST,
    "metaspace": tokenizer(SPACED, decoders.Metaspace()),
    "metaspace-never": tokenizer(SPACED, unprefixed()),
    "wordpiece": tokenizer(WORDS, decoders.WordPiece(cleanup=False)),
    "wordpiece-clean": tokenizer(WORDS, decoders.WordPiece(cleanup=True)),
    "wordpiece-clean-joined": tokenizer(WORDS, cleaned(decoders.WordPiece(cleanup=False))),
    "byte-fallback": tokenizer([*SPACED, *BYTES], FALLBACK),
    "suffixes": tokenizer(SUFFIXED, decoders.BPEDecoder()),
    "ctc": tokenizer(["a", "b", "|", "<pad>"], decoders.CTC()),
    "more-spaces": tokenizer(
        SPACED, decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 3, 0)])
    ),
    "expression": tokenizer(SPACED, decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("▁+(?=.*dog)"), "-")])),
    "none": tokenizer(WORDS, None),
}
STOPS = ["dog", " key", "'s", ".\n", "é", "s s", "\n\nA"]


def tokens(size: int, most: int = 100) -> st.SearchStrategy[list[int]]:
    """Rows with runs in them, as models that repeat themselves write."""
    run = st.tuples(st.lists(st.integers(0, size), min_size=1, max_size=4), st.integers(1, 12))
    return st.lists(run, max_size=12).map(lambda runs: [token for row, times in runs for token in row * times][:most])


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), stops=st.lists(st.sampled_from(STOPS), max_size=2))
def test_a_window_decodes_as_the_full_answer_does(kind: str, data: st.DataObject, stops: list[str]) -> None:
    fast = KINDS[kind]
    size = fast.get_vocab_size()  # one more than there are: an id that nobody knows
    begun, ids = data.draw(tokens(size, 30) | st.just([])), data.draw(tokens(size))
    decoder = decoder_of(fast)
    speech, reference = StreamingDetokenizer(decoder, stops, begun), Reference(decoder.decode, stops, begun)
    for token in ids:
        assert speech.add(token) == reference.add(token)
        assert speech.stopped == reference.stopped
        if speech.stopped:
            break
    assert speech.finish() == reference.finish()
    assert speech.text == reference.text and speech.token_ids == reference.ids


class Counted(TokenDecoder):
    """A decoder that counts the ids it decodes."""

    count = 0

    def decode(self, ids: Sequence[int]) -> str:
        self.count += len(ids)
        return super().decode(ids)


def row(kind: str, length: int) -> Iterator[int]:
    fast, random = KINDS[kind], np.random.default_rng(0)
    yield from (int(token) for token in random.integers(0, fast.get_vocab_size(), length))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"expression"}))
def test_the_work_of_the_decoder_grows_with_the_answer_and_no_faster(kind: str) -> None:
    decoder = Counted(KINDS[kind], json.loads(KINDS[kind].to_str()))
    speech, counts = StreamingDetokenizer(decoder, ["no such text"]), list[int]()
    for token in row(kind, 2000):
        speech.add(token)
        counts.append(decoder.count)
    assert counts[1999] - counts[999] <= 1.1 * (counts[999] + RETAINED)
    assert counts[1999] <= 4 * RETAINED * 2000


def test_the_work_for_one_special_token_again_and_again_is_none() -> None:
    fast = KINDS["byte-fallback"]
    decoder = Counted(fast, json.loads(fast.to_str()))
    speech = StreamingDetokenizer(decoder, check_stops(()))
    assert not any(speech.add(fast.token_to_id("<s>")) for _ in range(2000))
    assert decoder.count == 0
