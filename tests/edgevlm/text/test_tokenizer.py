"""Instructions to ids: length, unknown words, determinism."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevlm.errors import BundleError, InstructionError
from edgevlm.manifest.contract import InstructionSpec
from edgevlm.text import Tokenizer

WORDS = ["[PAD]", "[UNK]", "push", "the", "red", "cup", "left", "café"]
Make = Callable[..., Tokenizer]


def write_tokenizer(path: Path, *, pad_id: int = 0) -> Path:
    from tokenizers import Tokenizer as Fast
    from tokenizers import models, normalizers, pre_tokenizers

    fast = Fast(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    fast.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.enable_padding(pad_id=pad_id, pad_token="[PAD]", length=32)
    fast.enable_truncation(3)
    fast.save(str(path))
    return path


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("tokenizer")

    def build(max_tokens: int = 6, unknown: str = "refuse", pad_id: int = 0) -> Tokenizer:
        path = write_tokenizer(folder / "tokenizer.json", pad_id=pad_id)
        return Tokenizer(path, InstructionSpec(max_tokens=max_tokens, unknown=unknown))  # type: ignore[arg-type]

    return build


def test_gives_ids_and_a_mask_of_the_contract_length(make: Make) -> None:
    ids, mask = make().encode("push the red cup")
    assert ids.dtype == np.int64 and mask.dtype == np.float32
    assert ids.tolist() == [[2, 3, 4, 5, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0]]


def test_pads_with_the_id_of_the_file_and_ignores_its_lengths(make: Make) -> None:
    ids, mask = make(pad_id=7).encode("push the red cup left")
    assert ids.tolist() == [[2, 3, 4, 5, 6, 7]]
    assert mask.sum() == 5


def test_normalization_is_the_files_own(make: Make) -> None:
    plain, _ = make().encode("push the café")
    shouted, _ = make().encode("  PUSH the cafe\u0301 ")
    assert np.array_equal(plain, shouted)


def test_accepts_exactly_max_tokens_and_refuses_one_more(make: Make) -> None:
    make(max_tokens=3).encode("push the cup")
    with pytest.raises(InstructionError, match="at most 3 tokens, got 4"):
        make(max_tokens=3).encode("push the red cup")


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\ud800", None, 3])
def test_refuses_what_is_no_instruction(make: Make, text: object) -> None:
    with pytest.raises(InstructionError, match="instruction"):
        make().encode(text)  # type: ignore[arg-type]


def test_names_every_unknown_word_once(make: Make) -> None:
    with pytest.raises(InstructionError, match=r"\['blue', 'Jug'\]"):
        make().encode("push the blue Jug blue")


def test_lets_unknown_words_through_when_the_contract_does(make: Make) -> None:
    ids, _ = make(unknown="allow").encode("push the jug")
    assert ids[0, 2] == WORDS.index("[UNK]")


def test_refuses_an_instruction_that_holds_only_special_tokens(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json")
    described = json.loads(path.read_text())
    described["normalizer"] = {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}
    path.write_text(json.dumps(described))
    with pytest.raises(InstructionError, match="none that the tokenizer keeps"):
        Tokenizer(path, InstructionSpec(max_tokens=4)).encode("push")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": 3}', "\x00"])
def test_refuses_a_file_that_is_no_tokenizer(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BundleError, match="tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json", InstructionSpec(max_tokens=4))


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        Tokenizer(tmp_path / "none.json", InstructionSpec(max_tokens=4))


def test_results_cannot_be_written_to(make: Make) -> None:
    ids, mask = make().encode("push")
    with pytest.raises(ValueError, match="read-only"):
        ids[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        mask[0, 0] = 0


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_any_text_gives_a_full_row_or_a_typed_refusal(make: Make, text: str) -> None:
    tokenizer = make(unknown="allow")
    try:
        ids, mask = tokenizer.encode(text)
    except InstructionError:
        return
    again, _ = tokenizer.encode(text)
    assert ids.shape == mask.shape == (1, 6)
    assert 1 <= mask.sum() <= 6 and set(mask.ravel()) <= {0.0, 1.0}
    assert np.array_equal(ids, again)
    assert (np.diff(mask[0]) <= 0).all()


def test_importing_the_module_does_not_import_the_library() -> None:
    code = "import sys, edgevlm.text; sys.exit('tokenizers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
