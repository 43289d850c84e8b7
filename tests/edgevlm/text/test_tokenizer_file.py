"""A tokenizer.json has known parts only, cannot make a text grow without bound, and its patterns end."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from edgevlm.errors import BundleError
from edgevlm.text.tokenizer_file import MOST_GROWTH, check_regex, check_tokenizer, open_tokenizer

PLAIN = json.loads(tiny.TOKENIZER.read_text())
# Patterns of byte-level tokenizers in wide use, by what they do: contractions, letters, numbers, signs, white space.
IN_USE = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+(?i:'s|'t)?|\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))|\s+",
    r" {2,}",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\]^_`{|}~]",
)
ENDLESS = (
    *(r"(a+)+$", r"(a|a)*b", r"(?:a*)*", r"((a?){30})*", r"(a{1,100}){1,100}", r"a+*", "a?" * 30 + "a" * 30),
    *(r"(x)\1", r"(?<n>a)\k<n>", r"a*a*a*a*a*b", r"((){1000}){1000}", "x{100000}", "(?~x)", "(", ")", "[a", "*a"),
)


def refused(**parts: Any) -> str:
    with pytest.raises(BundleError) as refusal:
        check_tokenizer({**PLAIN, **parts}, "t")
    return str(refusal.value)


def test_takes_the_parts_that_tokenizers_have() -> None:
    check_tokenizer(PLAIN, "t")
    clip = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    check_tokenizer(
        {**PLAIN, "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, clip, {"type": "Lowercase"}]}},
        "t",
    )
    check_tokenizer({**PLAIN, "normalizer": {"type": "Prepend", "prepend": "\u2581"}}, "t")


@pytest.mark.parametrize("pattern", IN_USE)
def test_takes_the_patterns_in_use(pattern: str) -> None:
    check_regex(pattern)


@pytest.mark.parametrize("pattern", ENDLESS)
def test_refuses_patterns_that_may_not_end(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        check_regex(pattern)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    assert "pattern" in refused(pre_tokenizer=split)
    assert "pattern" in refused(normalizer={"type": "Replace", "pattern": {"Regex": pattern}, "content": ""})
    assert "pattern" in refused(decoder={"type": "Replace", "pattern": {"Regex": pattern}, "content": ""})


_ATOMS = st.sampled_from(["a", "b", r"\s", "[ab]", r"\p{L}", "."])
_PATTERNS = st.recursive(
    st.builds(lambda atom, repeat: atom + repeat, _ATOMS, st.sampled_from(["", "?", "*", "+", "{2}", "{1,3}", "{2,}"])),
    lambda inner: st.one_of(
        st.builds(lambda parts: "".join(parts), st.lists(inner, min_size=1, max_size=4)),
        st.builds(
            lambda one, other, repeat: f"(?:{one}|{other}){repeat}", inner, inner, st.sampled_from(["", "*", "?"])
        ),
        st.builds(lambda one, repeat: f"({one}){repeat}", inner, st.sampled_from(["", "+", "{3}"])),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(pattern=_PATTERNS)
def test_a_pattern_that_is_taken_ends_soon_in_the_library_itself(pattern: str) -> None:
    try:
        check_regex(pattern)
    except ValueError:
        return
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    begin = time.process_time()
    split.pre_tokenize_str("ab" * 30 + "a" * 60 + "c")
    assert time.process_time() - begin < 1.0


def test_refuses_a_chain_of_replacements_that_grows_without_bound() -> None:
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    assert str(2**40) in refused(normalizer={"type": "Sequence", "normalizers": [double] * 40})
    assert "over 64 parts" in refused(normalizer={"type": "Sequence", "normalizers": [{"type": "Strip"}] * 65})
    assert "empty text" in refused(normalizer={"type": "Replace", "pattern": {"String": ""}, "content": "x"})
    assert "prepends" in refused(normalizer={"type": "Prepend", "prepend": "x" * 1000})
    charsmap = base64.b64encode(bytes(4) + b"x" * 1000 + b"\0").decode()
    assert "1000 characters of one" in refused(normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap})
    assert MOST_GROWTH < 1000


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": {"type": "Eval"}},
        {"normalizer": ["Lowercase"]},
        {"normalizer": {"type": "Sequence"}},
        {"normalizer": {"type": "Replace"}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whatever"}]}},
        {"decoder": {"type": None}},
        {"post_processor": {"type": "Program"}},
        {"model": None},
        {"model": {"type": "Transformer"}},
    ],
)
def test_refuses_parts_that_it_does_not_know(parts: dict[str, Any]) -> None:
    assert "known and bounded parts" in refused(**parts)


def test_a_normalizer_within_the_bound_grows_no_more_than_that(tmp_path: Path) -> None:
    described = json.loads(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str())
    grow = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 8}
    described["normalizer"] = {"type": "Sequence", "normalizers": [grow, grow]}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(described))
    fast, _ = open_tokenizer(path)
    assert len(fast.normalizer.normalize_str("a" * 10)) == 10 * MOST_GROWTH


@pytest.mark.parametrize("stop", [1, 3, True, "1"])
def test_a_decoder_that_panics_in_the_library_is_refused(stop: object) -> None:
    """Stripping at the end of a text that is all stripped raises what no `except Exception` holds."""
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": stop}
    assert "strips" in refused(decoder=strip)
    assert "strips" in refused(decoder={"type": "Sequence", "decoders": [{"type": "Fuse"}, strip]})


@pytest.mark.parametrize("content", ["[]", "{", "null", "1" * 5000, "[" * 100_000])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        open_tokenizer(path)
