"""Dialogues of words and pictures become the ids of upstream's own processors, and what cannot be said is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import transformers
from PIL import Image
from support import wording
from support.prompts import PROMPTS
from tokenizers import Tokenizer
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from edgevlm.errors import CheckpointError, FamilyError, InstructionError, PromptError
from edgevlm.manifest.text import QuestionSpec
from edgevlm.preprocess import PicturePreprocessor
from edgevlm.text import PromptWriter, QuestionWriter, Turn
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.families.common.prompts import Words, read_words
from edgevlm_export.families.common.upstream import tokenizer_json

SIZES = ((40, 60), (60, 40), (30, 200), (16, 16), (1, 1), (90, 91), (200, 20))
PICTURES = [np.random.default_rng(h).integers(0, 256, (h, w, 3), np.uint8) for h, w in SIZES]
BEGINS = "{{ bos_token }}" + wording.DIALOGUE


class Dialogue(NamedTuple):
    """A dialogue: turns, and the pictures of all of them by their number in PICTURES."""

    turns: tuple[Turn, ...]
    pictures: tuple[int, ...]


def dialogues() -> list[Dialogue]:
    """200 of seven shapes: with and without pictures, a system text, an empty one, more turns."""
    created = []
    for place, text in enumerate(PROMPTS):
        one, two = place % len(SIZES), (place + 3) % len(SIZES)
        shapes = (
            Dialogue((Turn("user", text, 1),), (one,)),
            Dialogue((Turn("system", "Be brief."), Turn("user", text, 1)), (one,)),
            Dialogue((Turn("user", text, 3),), (one, two, one)),
            Dialogue((Turn("user", "What is this?", 1), Turn("assistant", "A dog."), Turn("user", text)), (one,)),
            Dialogue((Turn("user", text),), ()),
            Dialogue(
                (Turn("system", ""), Turn("user", text, 1), Turn("assistant", text), Turn("user", "", 1)), (one, two)
            ),
            Dialogue((Turn("system", text), Turn("user", "No picture yet."), Turn("user", text, 2)), (two, one)),
        )
        created.append(shapes[place % len(shapes)])
    return created


def messages(dialogue: Dialogue) -> list[dict[str, Any]]:
    """The dialogue as upstream takes it, pictures among the words."""
    left, result = iter(dialogue.pictures), []
    for turn in dialogue.turns:
        displayed = [{"type": "image", "image": Image.fromarray(PICTURES[next(left)])} for _ in range(turn.pictures)]
        result.append({"role": turn.role, "content": [*displayed, {"type": "text", "text": turn.text}]})
    return result


def opened(root: Path, name: str, features: int) -> tuple[Words, PromptWriter, PicturePreprocessor]:
    (root / "config.json").write_text("{}")
    words = read_words(Checkpoint(root), name, features, 32)
    (root / "exported.json").write_text(words.tokenizer, encoding="utf-8")
    return (
        words,
        PromptWriter(words.prompt, root / "exported.json"),
        PicturePreprocessor(words.operations),
    )


def grids(prepare: PicturePreprocessor, pictures: Sequence[int]) -> list[tuple[int, int]]:
    return [prepare.grid(*SIZES[place]) for place in pictures]


CASES = {  # how it is saved, our name of its class, upstream's, features of a tile
    "tiled": (wording.tiled, "SmolVLMProcessor", "Idefics3Processor", 4),
    "tiled-too": (wording.tiled, "Idefics3Processor", "Idefics3Processor", 4),
    "patched": (wording.patched, "LlavaProcessor", "LlavaProcessor", 16),
    "patched-begins": (
        lambda root: wording.patched(root, template=BEGINS),
        "LlavaProcessor",
        "LlavaProcessor",
        16,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_two_hundred_dialogues_become_the_ids_of_upstream(case: str, tmp_path: Path) -> None:
    save, ours, theirs, features = CASES[case]
    save(tmp_path)
    _, writer, prepare = opened(tmp_path, ours, features)
    upstream = getattr(transformers, theirs).from_pretrained(tmp_path)
    rows = dialogues()
    assert len(rows) == 200 and len({one.turns for one in rows}) == 200
    wrong = []
    for one in rows:
        want = upstream.apply_chat_template(messages(one), tokenize=True, add_generation_prompt=True)[0]
        got = writer.ids(one.turns, grids(prepare, one.pictures))
        if got != want:
            wrong.append((one, got, want))
    assert not wrong, wrong[:2]


def test_two_hundred_questions_without_a_template_become_the_ids_of_upstream(tmp_path: Path) -> None:
    wording.prefixed(tmp_path)
    words, writer, _ = opened(tmp_path, "PaliGemmaProcessor", 16)
    assert words.prompt.dialogue is None and not writer.knows_turns and words.prompt.needs_picture
    upstream = transformers.PaliGemmaProcessor.from_pretrained(tmp_path)
    wrong = []
    for place, text in enumerate(PROMPTS):
        pictures = [Image.fromarray(PICTURES[number]) for number in range(1 + place % 2)]
        want = upstream(text=[text], images=[pictures])["input_ids"][0]
        got = writer.ids([Turn("user", text, len(pictures))], [(0, 0)] * len(pictures))
        if got != want:
            wrong.append((text, got, want))
    assert not wrong, wrong[:2]


def test_two_hundred_questions_after_a_picture_become_the_ids_of_upstream(tmp_path: Path) -> None:
    wording.queried(tmp_path)
    words, writer, _ = opened(tmp_path, "Blip2Processor", 4)
    prompt = words.prompt
    assert prompt.needs_picture and prompt.most_pictures == 1 and not prompt.needs_text and not writer.knows_turns
    upstream = transformers.Blip2Processor.from_pretrained(tmp_path)
    picture, wrong = Image.fromarray(PICTURES[0]), []
    for text in (*PROMPTS, "", " "):
        want = upstream(text=text, images=picture)["input_ids"][0]
        got = writer.ids([Turn("user", writer.check(text), 1)], [(0, 0)])
        if got != want:
            wrong.append((text, got, want))
    assert not wrong, wrong[:2]


@pytest.mark.parametrize(("reader", "special"), [("encoder", True), ("decoder", False)])
def test_two_hundred_questions_with_a_picture_become_the_ids_of_upstream(
    reader: Literal["encoder", "decoder"], special: bool, tmp_path: Path
) -> None:
    upstream = wording.asked(tmp_path)
    spec = QuestionSpec(reader=reader, max_tokens=512, special_tokens=special, needs_text=False)
    begin = (upstream.tokenizer.convert_tokens_to_ids("[DEC]"),)
    writer = QuestionWriter(spec, tmp_path / "tokenizer.json", begin)
    picture, wrong = Image.fromarray(PICTURES[0]), []
    for text in (*PROMPTS, ""):
        want = upstream(text=[text], images=[picture])["input_ids"][0]
        if reader == "decoder":  # upstream's model does this to its ids itself
            want = [*begin, *want[1:-1]]
        got = list(writer.ids(writer.check(text)))
        if got != want:
            wrong.append((text, got, want))
    assert not wrong, wrong[:2]


SPELT = ["dog", "key", "##board", "##s", "'", "s", "t", "n", "do", "re", "ve", "m", "it", ".", ",", "!", "?"]


def spelling(root: Path, clean: bool) -> Any:
    """A WordPiece whose words are SPELT, opened from its files."""
    signs = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {word: place for place, word in enumerate((*signs, *SPELT))}
    transformers.BertTokenizer(vocab=words).save_pretrained(root)
    change(root / "tokenizer_config.json", clean_up_tokenization_spaces=clean)
    return Checkpoint(root).tokenizer


@pytest.mark.parametrize("clean", [False, True])
def test_answers_become_the_text_that_upstream_makes_of_them(clean: bool, tmp_path: Path) -> None:
    upstream = spelling(tmp_path, clean)
    (tmp_path / "carried.json").write_text(tokenizer_json(Checkpoint(tmp_path), upstream))
    spec = QuestionSpec(reader="decoder", max_tokens=512, special_tokens=False, needs_text=False)
    writer, generator = QuestionWriter(spec, tmp_path / "carried.json", ()), np.random.default_rng(0)
    for _ in range(300):
        token_ids = upstream.convert_tokens_to_ids([str(word) for word in generator.choice([*SPELT, "[SEP]"], 12)])
        want = upstream.decode(token_ids, skip_special_tokens=True)
        assert writer.decode(token_ids) == want
        begun = writer.ids("dog . key")
        for row, before, speech in (
            ([], "", writer.stream("", ())),
            (begun, "dog. key", writer.stream("dog . key", ())),
        ):
            want = upstream.decode([*row, *token_ids], skip_special_tokens=True)
            pieces = [*(speech.add(token) for token in token_ids), speech.finish()]
            assert before + "".join(pieces) == want or "n't" in want  # a `do n` that is out is not taken back
    own = upstream.convert_tokens_to_ids(["dog", "'", "s"])
    assert writer.decode(own) == ("dog's" if clean else "dog ' s")


def test_a_bpe_is_left_as_it_is_as_upstream_does(tmp_path: Path) -> None:
    wording.queried(tmp_path)
    change(tmp_path / "tokenizer_config.json", clean_up_tokenization_spaces=True)
    upstream = Checkpoint(tmp_path).tokenizer
    assert upstream.clean_up_tokenization_spaces
    carried = Tokenizer.from_str(tokenizer_json(Checkpoint(tmp_path), upstream))
    ids = upstream.encode("what is this , or that ?", add_special_tokens=False)
    assert carried.decode(ids) == upstream.decode(ids) == "what is this , or that ?"


def test_spaces_that_nothing_can_take_away_are_refused(tmp_path: Path) -> None:
    upstream = spelling(tmp_path, clean=True)
    upstream.backend_tokenizer.decoder = None
    with pytest.raises(FamilyError, match="clean_up_tokenization_spaces"):
        tokenizer_json(Checkpoint(tmp_path), upstream)


def test_a_question_with_a_sign_of_the_models_own_or_too_many_tokens_is_refused(tmp_path: Path) -> None:
    wording.asked(tmp_path)
    spec = QuestionSpec(reader="encoder", max_tokens=12, special_tokens=True, needs_text=True)
    writer = QuestionWriter(spec, tmp_path / "tokenizer.json", (3,))
    assert len(writer.ids("a photo of a dog")) <= 12
    with pytest.raises(PromptError, match=r"at most 12 tokens, got \d+; ask in fewer"):
        writer.ids("a photo of a dog, and of a cat, and of a car, and of a cup")
    for sign in ("[DEC]", "[SEP]", "[CLS]", "[ENC]"):
        with pytest.raises(PromptError, match="sign of the model's own"):
            writer.check(f"what is {sign} this")
    with pytest.raises(InstructionError, match="expected words"):
        writer.check(" ")


def test_a_tokenizer_that_puts_a_sign_behind_a_text_is_refused(tmp_path: Path) -> None:
    wording.queried(tmp_path)
    file = json.loads((tmp_path / "tokenizer.json").read_text())
    parts = file["post_processor"]
    single = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    file["post_processor"] = {
        **{"type": "TemplateProcessing", "single": single, "pair": parts.get("pair", single)},
        "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    change(tmp_path / "tokenizer_config.json", add_bos_token=None)
    with pytest.raises(FamilyError, match="expected them before a text"):
        opened(tmp_path, "Blip2Processor", 4)


@pytest.mark.parametrize("case", CASES)
def test_every_feature_of_the_prepared_pictures_has_its_id(case: str, tmp_path: Path) -> None:
    save, ours, _, features = CASES[case]
    save(tmp_path)
    words, writer, prepare = opened(tmp_path, ours, features)
    assert not words.prompt.needs_picture
    for dialogue in dialogues()[:14]:
        ids = writer.ids(dialogue.turns, grids(prepare, dialogue.pictures))
        tiles = sum(len(prepare(PICTURES[place])) for place in dialogue.pictures)
        assert ids.count(words.prompt.image_id) == tiles * features
        assert max(ids) < words.ids


@pytest.mark.parametrize("case", CASES)
def test_answers_decode_as_with_upstream(case: str, tmp_path: Path) -> None:
    save, ours, theirs, features = CASES[case]
    save(tmp_path)
    _, writer, _ = opened(tmp_path, ours, features)
    upstream = getattr(transformers, theirs).from_pretrained(tmp_path)
    random = np.random.default_rng(3)
    for text in PROMPTS:
        ids = [*upstream.tokenizer(text, add_special_tokens=False)["input_ids"], upstream.tokenizer.eos_token_id]
        for answer in (ids, ids[1:], random.permutation(ids).tolist()):
            assert writer.decode(answer) == upstream.decode(answer, skip_special_tokens=True)


def test_one_begin_token_whether_the_template_writes_it_or_the_tokenizer(tmp_path: Path) -> None:
    for case in ("patched", "patched-begins"):
        save, ours, _, features = CASES[case]
        processor = save(tmp_path / case)
        _, writer, _ = opened(tmp_path / case, ours, features)
        ids = writer.ids([Turn("user", "a cat", 1)], [(0, 0)])
        assert ids[0] == processor.tokenizer.bos_token_id and ids.count(ids[0]) == 1, case


def test_the_text_of_any_grid_is_that_of_the_processor_with_video(tmp_path: Path) -> None:
    processor = wording.tiled(tmp_path)
    words, writer, _ = opened(tmp_path, "SmolVLMProcessor", 4)
    names = ("<fake_token_around_image>", "<image>", "<global-img>")
    for grid in ((0, 0), (1, 2), (4, 1), (3, 4), (6, 6)):
        text = f"{wording.START}User:{get_image_prompt_string(*grid, 4, *names)}hello{wording.END}\nAssistant:"
        want = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert writer.ids([Turn("user", "hello", 1)], [grid]) == want
    assert words.prompt.picture.tile and words.prompt.picture.row_end == "\n"


def test_tokens_that_the_processor_adds_are_in_the_tokenizer_of_the_bundle(tmp_path: Path) -> None:
    wording.prefixed(tmp_path)
    vocabulary, merges = wording.pieces(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    bare = transformers.GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
    bare.save_pretrained(tmp_path)
    words, writer, _ = opened(tmp_path, "PaliGemmaProcessor", 16)
    upstream = transformers.PaliGemmaProcessor.from_pretrained(tmp_path)
    assert words.ids == len(upstream.tokenizer) == len(bare) + 1 + 1024 + 128
    for text in ("a cat", "detect <loc0017><seg003> dog"):
        want = upstream(text=[text], images=[[Image.fromarray(PICTURES[0])]])["input_ids"][0]
        assert writer.ids([Turn("user", text, 1)], [(0, 0)]) == want
        assert want.count(bare.bos_token_id) == 1


def change(path: Path, **more: Any) -> None:
    """Set keys of a JSON file; None takes one away."""
    result = {**json.loads(path.read_text()), **more} if path.exists() else more
    path.write_text(json.dumps({key: value for key, value in result.items() if value is not None}))


def test_the_files_of_older_checkpoints_say_the_same(tmp_path: Path) -> None:
    wording.patched(tmp_path)
    new, _, _ = opened(tmp_path, "LlavaProcessor", 16)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    change(tmp_path / "preprocessor_config.json", **settings["image_processor"])
    change(tmp_path / "processor_config.json", image_processor=None)
    change(tmp_path / "chat_template.json", chat_template=(tmp_path / "chat_template.jinja").read_text())
    (tmp_path / "chat_template.jinja").unlink()
    old, _, _ = opened(tmp_path, "LlavaProcessor", 16)
    assert old == new


def test_the_number_of_image_tokens_must_be_that_of_the_features(tmp_path: Path) -> None:
    for save, name, features in (
        (wording.tiled, "SmolVLMProcessor", 4),
        (wording.patched, "LlavaProcessor", 16),
        (wording.prefixed, "PaliGemmaProcessor", 16),
    ):
        save(tmp_path / name)
        with pytest.raises(FamilyError, match=rf"writes {features} image tokens .* makes {features + 1} features"):
            opened(tmp_path / name, name, features + 1)


@pytest.mark.parametrize(
    ("file", "more", "error", "message"),
    [
        ("processor_config.json", {"patch_size": None}, FamilyError, "'patch_size': expected the vision part's"),
        ("processor_config.json", {"num_additional_image_tokens": 0}, FamilyError, "writes 15 image tokens"),
        (
            "processor_config.json",
            {"image_processor": {"image_processor_type": "PixtralImageProcessor"}},
            FamilyError,
            "'image_processor_type': expected one of .*'CLIPImageProcessor'.*, got 'PixtralImageProcessor'",
        ),
        ("processor_config.json", "[", CheckpointError, "expected JSON"),
        ("tokenizer.json", "{}", CheckpointError, "expected a tokenizer of the"),
        ("chat_template.jinja", " ", FamilyError, "expected a chat template"),
        ("chat_template.jinja", "{{ messages[0].content", FamilyError, "'chat_template' cannot be used"),
        ("chat_template.jinja", "{{ strftime_now('%Y') }}<image>", FamilyError, "'chat_template' cannot be used"),
        (
            "chat_template.jinja",
            "{{ messages[0].role }}",
            FamilyError,
            "'<image>' once for one picture, it writes it 0",
        ),
    ],
    ids=[
        *("no-patch", "a-token-less", "another-processor", "no-json", "no-tokenizer", "no-template"),
        *("broken-template", "dated-template", "blind-template"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused_by_name(
    file: str, more: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    wording.patched(tmp_path)
    if isinstance(more, str):
        (tmp_path / file).write_text(more)
    else:
        change(tmp_path / file, **more)
    with pytest.raises(error, match=message):
        opened(tmp_path, "LlavaProcessor", 16)


@pytest.mark.parametrize("field", ["image_token_id", "image_token_index"])
def test_weights_of_another_tokenizer_are_refused(field: str, tmp_path: Path) -> None:
    processor = wording.patched(tmp_path)
    change(tmp_path / "config.json", **{field: processor.image_token_id})
    read_words(Checkpoint(tmp_path), "LlavaProcessor", 16, 32)
    change(tmp_path / "config.json", **{field: processor.image_token_id + 1})
    with pytest.raises(CheckpointError, match="of different models"):
        read_words(Checkpoint(tmp_path), "LlavaProcessor", 16, 32)


def test_a_tokenizer_without_the_image_token_is_refused(tmp_path: Path) -> None:
    wording.tiled(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text().replace("<image>", "<picture>")
    (tmp_path / "tokenizer.json").write_text(text)
    change(tmp_path / "tokenizer_config.json", extra_special_tokens=None)
    with pytest.raises(CheckpointError, match=r"expected a tokenizer that knows '<image>'"):
        opened(tmp_path, "SmolVLMProcessor", 4)
