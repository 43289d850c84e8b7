"""What a model says after the beginning of a caption: the beginning and the answer together are the caption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from edgevlm.manifest.schema import QuestionSpec
from edgevlm.text import QuestionWriter, special_tokens

WORDS = ["[UNK]", "[DEC]", "a", "dog", "key", "##board", "##s", "on", "it", "'", "s", ".", "##less"]
NUMBER = {word: number for number, word in enumerate(WORDS)}
BEGUN = ("", "a key", "a", "it", "a dog on a key", "a keyboard's")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fast = Tokenizer(models.WordPiece(NUMBER, unk_token="[UNK]"))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    fast.add_special_tokens(["[DEC]"])
    fast.post_processor = processors.TemplateProcessing("[DEC] $A [DEC]", None, [("[DEC]", NUMBER["[DEC]"])])
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    fast.save(str(path))
    return path


def writer(file: Path, reader: str = "decoder", framed: bool = False) -> QuestionWriter:
    spec = QuestionSpec(reader=reader, max_tokens=32, special_tokens=framed, needs_text=False)
    return QuestionWriter(spec, file, (NUMBER["[DEC]"],))


def continued(words: QuestionWriter, text: str, *answer: str) -> str:
    speech = words.stream(text, ())
    return "".join([*(speech.add(NUMBER[word]) for word in answer), speech.finish()])


def test_an_answer_may_go_on_inside_a_word(file: Path) -> None:
    words = writer(file)
    assert continued(words, "a key", "##board", "##s") == "boards"
    assert continued(words, "a key", "on", "it") == " on it"  # and a new word begins with its space
    assert continued(words, "", "a", "key", "##board") == "a keyboard"
    assert continued(words, "a key") == ""


@given(st.sampled_from(BEGUN), st.lists(st.sampled_from(WORDS[1:]), max_size=8))
def test_the_beginning_and_what_was_streamed_are_the_caption(file: Path, text: str, answer: list[str]) -> None:
    words, ids = writer(file), [NUMBER[word] for word in answer]
    speech = words.stream(text, ())
    pieces = [*(speech.add(token) for token in ids), speech.finish()]
    begun = words.ids(text)
    assert words.decode(begun) + "".join(pieces) == words.decode((*begun, *ids))


def test_an_answer_to_a_question_stands_alone(file: Path) -> None:
    assert continued(writer(file, "encoder"), "a key", "on", "it") == "on it"


class Counted:
    """A tokenizer that remembers what it encoded."""

    def __init__(self, fast: Tokenizer) -> None:
        self._fast, self.texts = fast, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fast, name)

    def encode(self, text: str) -> Any:
        self.texts.append(text)
        return self._fast.encode(text)


@pytest.mark.parametrize("reader", ["encoder", "decoder"])
@pytest.mark.parametrize("framed", [False, True])
def test_a_question_is_tokenized_once(file: Path, reader: str, framed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, described = special_tokens.open_tokenizer(file)
    counted = Counted(fast)
    monkeypatch.setattr(special_tokens, "open_tokenizer", lambda _: (counted, described))
    words = writer(file, reader, framed)
    words.ids(words.check("a dog on"))
    words.stream("a dog on", ())
    assert counted.texts == ["a dog on"]


@given(st.lists(st.sampled_from([*WORDS, "[DEC", "zebra"]), max_size=8).map(" ".join))
def test_special_tokens_stand_around_the_words_that_were_checked(file: Path, text: str) -> None:
    first, *own, last = writer(file, "encoder", framed=True).ids(text)
    assert first == last == NUMBER["[DEC]"]
    assert own == list(writer(file, "encoder").ids(text))
    assert own == Tokenizer.from_file(str(file)).encode(text, add_special_tokens=False).ids
