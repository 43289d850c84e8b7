"""Words and pictures -> ids: every picture has its features' places, and a user's words are never a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import talker, tiny
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from edgevlm.errors import BundleError, InstructionError, PromptError, TaskError
from edgevlm.manifest.schema import PromptSpec
from edgevlm.text import PromptWriter, Turn

FILE = tiny.STAGES / "chat_tokenizer.json"
FAST = Tokenizer.from_file(str(FILE))
TILED = {
    "whole": "<whole>{image}<whole>",
    "tile": "<tile>{row}.{column}{image}",
    "row_end": "\n",
    "after_tiles": "\n<whole>{image}<whole>",
}


def writer(**more: Any) -> PromptWriter:
    return PromptWriter(PromptSpec(**talker.prompt(**more)), FILE)


def plain(**more: Any) -> PromptWriter:
    return PromptWriter(PromptSpec(**talker.prompt(**{**talker.PLAIN, **more})), FILE)


def text(ids: list[int]) -> str:
    displayed: str = FAST.decode(ids, skip_special_tokens=False)
    return displayed


def test_a_dialogue_is_written_by_the_template_with_pictures_in_their_places() -> None:
    turns = [Turn("user", "see?", 2), Turn("assistant", "yes"), Turn("user", "and?", 1)]
    ids = writer().ids(turns, [(0, 0)] * 3)
    observed = "<whole>" + "<image>" * 4
    assert (
        text(ids)
        == f"<bos>User:{observed}{observed} see?<end>\nAssistant: yes<end>\nUser:{observed} and?<end>\nAssistant:"
    )
    assert ids.count(talker.BOS) == 1  # not a second one from the tokenizer
    assert ids == FAST.encode(text(ids), add_special_tokens=False).ids


def test_tiles_are_announced_row_by_row_and_the_thumbnail_comes_last() -> None:
    ids = writer(picture=TILED).ids([Turn("user", "x", 1)], [(2, 3)])
    row = "".join(f"<tile>{{0}}.{column}" + "<image>" * 4 for column in (1, 2, 3))
    tiles = row.format(1) + "\n" + row.format(2) + "\n"
    assert text(ids) == f"<bos>User:{tiles}\n<whole>{'<image>' * 4}<whole> x<end>\nAssistant:"
    assert ids.count(talker.IMAGE) == 7 * 4


def test_a_model_without_turns_has_its_pattern() -> None:
    assert text(plain().ids([Turn("user", "caption {text}{images}", 1)], [(0, 0)])) == (
        "<whole>" + "<image>" * 4 + "<bos>caption {text}{images}\n"
    )


@pytest.mark.parametrize(
    ("more", "count"),
    [({}, 1), ({"unless_begins": ""}, 2), ({"special_tokens": False}, 1), ({"unless_begins": "<end>"}, 2)],
)
def test_special_tokens_are_added_as_upstream_adds_them(more: dict[str, Any], count: int) -> None:
    assert writer(**more).ids([Turn("user", "x")], []).count(talker.BOS) == count


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(str.strip))
def test_any_words_come_back_out_of_the_ids(words: str) -> None:
    asked = writer().check(words)
    assert text(writer().ids([Turn("user", asked)], [])) == f"<bos>User: {words}<end>\nAssistant:"


@pytest.mark.parametrize("words", ["<image>", "what <image> is it", "a<image>", "<ima<image>ge>"])
def test_an_image_token_among_the_words_is_refused(words: str) -> None:
    with pytest.raises(PromptError, match=r"<image>.*give pictures as `image`"):
        writer().check(words)


@pytest.mark.parametrize("words", ["", "  \n", None, 3, b"x", "\ud800"])
def test_what_are_no_words_is_refused(words: Any) -> None:
    with pytest.raises(InstructionError, match="expected words"):
        writer().check(words)


def test_very_long_words_are_refused_before_they_are_read() -> None:
    with pytest.raises(PromptError, match="1048577"):
        writer().check("a" * ((1 << 20) + 1))


@pytest.mark.parametrize("answer", ["<image>", "<ima<image>ge> x", "yes<image><image>", "<<image>image>"])
def test_an_answer_never_becomes_a_picture_in_the_next_prompt(answer: str) -> None:
    created = writer()
    turns = [Turn("user", "a", 1), Turn("assistant", created.clean_answer(answer)), Turn("user", "b")]
    assert created.ids(turns, [(0, 0)]).count(talker.IMAGE) == 4


def test_a_program_is_no_prompt() -> None:
    with pytest.raises(BundleError, match="a chat template, which is a program"):
        writer(**talker.WITH_TEMPLATE)


def test_as_many_pictures_are_expected_as_the_turns_have() -> None:
    with pytest.raises(PromptError, match="expected 1 pictures, as the turns have, got 2"):
        writer().ids([Turn("user", "x", 1)], [(0, 0)] * 2)


def test_a_model_without_turns_refuses_a_dialogue() -> None:
    for turns in ([Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")], [Turn("system", "a")]):
        with pytest.raises(TaskError, match="one question at a time"):
            plain().ids(turns, [])


def test_a_tokenizer_without_the_image_token_is_refused() -> None:
    with pytest.raises(BundleError, match="image token of the id 999"):
        writer(image_id=999)


def test_a_picture_text_with_more_image_tokens_than_features_is_refused() -> None:
    created = writer(picture={"whole": "<image>{image}"})
    with pytest.raises(PromptError, match="expected 4 image tokens for 1 pictures, the tokenizer gave 5"):
        created.ids([Turn("user", "x", 1)], [(0, 0)])


def test_signs_are_refused_however_they_are_written_and_unknown_words_are_not(tmp_path: Path) -> None:
    words = {"<image>": 0, "<none>": 1, "<stop>": 2, "hello": 3}
    fast = Tokenizer(models.WordLevel(words, unk_token="<none>"))
    fast.normalizer = normalizers.Lowercase()
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.add_special_tokens([AddedToken(token, normalized=True) for token in ("<image>", "<none>", "<stop>")])
    fast.save(str(tmp_path / "tokenizer.json"))
    spec = PromptSpec(**talker.prompt(image_id=0, **talker.PLAIN))
    created = PromptWriter(spec, tmp_path / "tokenizer.json")
    assert created.check("hello stranger") == "hello stranger"
    for sign in ("<stop>", "<STOP>", "<Image>"):
        with pytest.raises(PromptError, match=f"got '{sign.lower()}' among them"):
            created.check(f"hello {sign}")


def test_an_answer_stands_in_the_next_prompt_without_signs_and_white_space_around_it() -> None:
    assert writer().clean_answer(" \nA red cup.<end> ") == "A red cup."
