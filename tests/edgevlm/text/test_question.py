"""What a model says after the beginning of a caption: the beginning and the answer together are the caption."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgevlm.manifest.schema import QuestionSpec
from edgevlm.text import QuestionWriter, StreamingDetokenizer

WORDS = ["[UNK]", "[DEC]", "a", "dog", "key", "##board", "##s", "on", "it", "'", "s", ".", "##less"]
NUMBER = {word: number for number, word in enumerate(WORDS)}
BEGUN = ("", "a key", "a", "it", "a dog on a key", "a keyboard's")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fast = Tokenizer(models.WordPiece(NUMBER, unk_token="[UNK]"))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    fast.add_special_tokens(["[DEC]"])
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    fast.save(str(path))
    return path


def writer(file: Path, reader: str = "decoder") -> QuestionWriter:
    spec = QuestionSpec(reader=reader, max_tokens=32, special_tokens=False, needs_text=False)
    return QuestionWriter(spec, file, (NUMBER["[DEC]"],))


def said(words: QuestionWriter, text: str, *answer: str) -> str:
    return words.answering(text)([NUMBER[word] for word in answer])


def test_an_answer_may_go_on_inside_a_word(file: Path) -> None:
    words = writer(file)
    assert said(words, "a key", "##board", "##s") == "boards"
    assert said(words, "a key", "on", "it") == " on it"  # and a new word begins with its space
    assert said(words, "", "a", "key", "##board") == "a keyboard"
    assert said(words, "a key") == ""


@given(st.sampled_from(BEGUN), st.lists(st.sampled_from(WORDS[1:]), max_size=8))
def test_the_beginning_and_what_was_streamed_are_the_caption(file: Path, text: str, answer: list[str]) -> None:
    words, ids = writer(file), [NUMBER[word] for word in answer]
    speech = StreamingDetokenizer(words.answering(text), ())
    pieces = [*(speech.add(token) for token in ids), speech.finish()]
    begun = words.ids(text)
    assert words.decode(begun) + "".join(pieces) == words.decode((*begun, *ids))


def test_an_answer_to_a_question_stands_alone(file: Path) -> None:
    assert said(writer(file, "encoder"), "a key", "on", "it") == "on it"
