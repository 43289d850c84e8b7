"""Opening a tokenizer.json that asks for no more than known parts, texts that grow little, patterns that end.

The library's normalizers and pre-tokenizers are data, but data can still make a text grow without bound (a chain of
replacements) or a pattern search that does not end (a repeated group with choices in it). Parts are named by their
"type" as https://github.com/huggingface/tokenizers writes them.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgevlm.bounded import MB, read_bounded
from edgevlm.errors import BundleError

TOKENIZER_BYTES = 256 * MB
MOST_GROWTH = 64  # characters that may become of one
MOST_PARTS = 64  # of one kind, sequences counted by what is in them
PREPENDED = 64  # characters that may be put before a text
_PATTERN_LENGTH = 2048
_UNBOUNDED_REPEATS = 4  # in one alternative: the time of a search grows by one power of the text's length with each
_COUNT = 1000  # the most times a repeat may name
_BOUNDED_REPEATS = 8  # likewise: the time may double with each

# type -> how many characters may become of one (Unicode's own tables for the normal forms)
_NORMALIZERS: Mapping[str, int] = {
    **{"Lowercase": 3, "Strip": 1, "StripAccents": 1, "Nmt": 1, "BertNormalizer": 6, "ByteLevel": 4},
    **{"NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18},
}
_PRE_TOKENIZERS = frozenset(
    {"ByteLevel", "Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Metaspace", "Punctuation", "Digits", "Split"}
    | {"CharDelimiterSplit", "UnicodeScripts", "FixedLength"}
)
_DECODERS = frozenset(
    {"ByteLevel", "WordPiece", "Metaspace", "BPEDecoder", "CTC", "Fuse", "Strip", "ByteFallback", "Replace"}
)
_POST_PROCESSORS = frozenset({"TemplateProcessing", "ByteLevel", "BertProcessing", "RobertaProcessing"})
_MODELS = frozenset({"BPE", "WordPiece", "WordLevel", "Unigram"})
_MEMBERS: Mapping[str, str] = {  # kind -> where a "Sequence" of it lists its members
    **{"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"},
    **{"post_processor": "processors"},
}


def open_tokenizer(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """(the tokenizer, what its file says). The file's own padding and truncation are left as they are.

    Raises:
        BundleError: the file cannot be read, is no tokenizer, or has parts that `check_tokenizer` refuses.
    """
    from tokenizers import Tokenizer as Fast  # takes a while to import, and `import edgevlm` must not

    try:
        text = read_bounded(Path(path).resolve(), TOKENIZER_BYTES).decode("utf-8")
        described = json.loads(text)
    except OSError as error:
        raise BundleError(f"{path}: the tokenizer cannot be read ({error}); export the bundle again") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: expected a tokenizer.json, got: {error}; export the bundle again") from error
    if not isinstance(described, dict):
        raise BundleError(
            f"{path}: expected a tokenizer.json, got a {type(described).__name__}; export the bundle again"
        )
    check_tokenizer(described, str(path))
    try:
        return Fast.from_str(text), described
    except Exception as error:  # the library raises nothing narrower
        raise BundleError(f"{path}: expected a tokenizer.json, got: {error}; export the bundle again") from error


def is_unicode(text: str) -> bool:
    """Whether `text` can be written down: no lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_tokenizer(described: Mapping[str, Any], where: str) -> None:
    """Whether the parts of a tokenizer.json are known ones, and bounded in what they make of a text.

    Raises:
        BundleError: naming the part and what is wrong with it.
    """
    try:
        growth = 1
        for part in parts(described.get("normalizer"), "normalizer"):
            growth *= _growth(part)
        if growth > MOST_GROWTH:
            raise ValueError(f"normalizers that may make {growth} characters of one, {MOST_GROWTH} are allowed")
        for kind, known in (
            ("pre_tokenizer", _PRE_TOKENIZERS),
            ("decoder", _DECODERS),
            ("post_processor", _POST_PROCESSORS),
        ):
            for part in parts(described.get(kind), kind):
                _known(part, kind, known)
                _check_pattern(part.get("pattern"))
                if kind == "decoder" and part.get("stop"):  # of "Strip": the library panics where nothing is left
                    raise ValueError(f"a decoder that strips {part['stop']!r:.40} at the end, 0 is allowed")
        model = described.get("model")
        if not isinstance(model, dict) or model.get("type", "BPE") not in _MODELS:
            raise ValueError(f"no model of the types {sorted(_MODELS)}")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(
            f"{where}: expected a tokenizer of known and bounded parts, got {error}; do not use this bundle, or export "
            "the checkpoint with another tokenizer"
        ) from error


def parts(part: Any, kind: str) -> Iterator[Mapping[str, Any]]:
    """The members of a sequence of `kind`, or the part itself; nothing for null. Raises ValueError."""
    waiting, count = [part], 0
    while waiting:
        part = waiting.pop(0)
        if part is None:
            continue
        if not isinstance(part, dict):
            raise ValueError(f"a {kind} that is no object")
        if (count := count + 1) > MOST_PARTS:
            raise ValueError(f"over {MOST_PARTS} parts of {kind}")
        if part.get("type") == "Sequence":
            waiting[:0] = part[_MEMBERS[kind]]
        else:
            yield part


def _known(part: Mapping[str, Any], kind: str, known: frozenset[str]) -> None:
    if part.get("type") not in known:
        raise ValueError(f"the {kind} {part.get('type')!r:.80}, which is none of {sorted(known)}")


def _growth(part: Mapping[str, Any]) -> int:
    """How many characters a normalizer may make of one. Raises ValueError."""
    kind = part.get("type")
    if kind == "Replace":
        return _replacement_growth(part)
    if kind == "Prepend":
        if len(part["prepend"]) > PREPENDED:
            raise ValueError(f"a normalizer that prepends {len(part['prepend'])} characters")
        return 1
    if kind == "Precompiled":
        return _longest_piece(part["precompiled_charsmap"])
    _known(part, "normalizer", frozenset({*_NORMALIZERS, "Replace", "Prepend", "Precompiled"}))
    return _NORMALIZERS[str(kind)]


def _replacement_growth(part: Mapping[str, Any]) -> int:
    pattern, content = part["pattern"], part["content"]
    _check_pattern(pattern)
    shortest = len(pattern["String"]) if "String" in pattern else 1
    if shortest == 0:
        raise ValueError("a normalizer that replaces an empty text")
    return max(1, -(-len(content) // shortest))


def _longest_piece(charsmap: str | None) -> int:
    """The longest text in a SentencePiece map: the size of its index, the index, then pieces that end with a zero."""
    if not charsmap:
        return 1
    try:
        blob = base64.b64decode(charsmap, validate=True)
    except binascii.Error as error:
        raise ValueError("a precompiled map that is no base64") from error
    pieces = blob[4 + int.from_bytes(blob[:4], "little") :]
    return max((len(piece.decode("utf-8", "replace")) for piece in pieces.split(b"\0")), default=1) or 1


def _check_pattern(pattern: Any) -> None:
    """Whether a search for the pattern ends soon, whatever the text. Raises ValueError."""
    if isinstance(pattern, dict) and "Regex" in pattern:
        check_regex(pattern["Regex"])


_TOKEN = re.compile(
    r"""(?P<escape>\\(?:[pPk]\{[^}]*\}|x\{[^}]*\}|.))
      | (?P<set>\[)
      | (?P<open>\((?:\?(?:<?[=!]|[a-z-]*:|>|<[A-Za-z_]\w*>))?)
      | (?P<close>\))
      | (?P<choice>\|)
      | (?P<repeat>[*+?]|\{\d*(?:,\d*)?\})[?+]?
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


class _Group:
    """What is in a group of a pattern so far."""

    def __init__(self) -> None:
        self.repeats = False  # something in it may match more or less
        self.choice = False
        self.unbounded = self.bounded = 0  # such repeats in the alternative being read


def check_regex(pattern: str) -> None:
    """Whether a pattern has no repeated group that is repeated or chosen inside, and no reference back.

    Those are what makes a backtracking search take exponential time; few repeats in one alternative bound the rest.

    Raises:
        ValueError: saying what is in it.
    """
    if len(pattern) > _PATTERN_LENGTH:
        raise ValueError(f"a pattern of {len(pattern)} characters")
    groups, closed, before = [_Group()], None, ""
    place = 0
    while place < len(pattern):
        token = _TOKEN.match(pattern, place)
        assert token is not None
        kind, place = token.lastgroup, token.end()
        ended, closed = closed, None
        if before in ("", "open", "choice", "repeat") and kind == "repeat":
            raise ValueError(f"the pattern {pattern!r:.80}, with a repeat of no character and no plain group")
        before = str(kind)
        if kind == "escape" and re.match(r"\\[1-9kg]", token[0]):
            raise ValueError(f"the pattern {pattern!r:.80}, which refers back")
        if kind == "set":
            place = _after_set(pattern, place)
        elif kind == "open":
            groups.append(_Group())
        elif kind == "close":
            if len(groups) == 1:
                raise ValueError(f"the pattern {pattern!r:.80}, with a bracket too many")
            closed = groups.pop()
            groups[-1].repeats |= closed.repeats
            groups[-1].unbounded += closed.unbounded
            groups[-1].bounded += closed.bounded
        elif kind == "choice":
            groups[-1].choice, groups[-1].unbounded, groups[-1].bounded = True, 0, 0
        elif kind == "repeat":
            _repeat(pattern, token["repeat"], ended, groups[-1])
    if len(groups) != 1:
        raise ValueError(f"the pattern {pattern!r:.80}, with an open bracket")


def _repeat(pattern: str, repeat: str, group: _Group | None, around: _Group) -> None:
    """A repeat of what came before: `group`, or one character."""
    numbers = [int(number) for number in re.findall(r"\d+", repeat)]
    if max(numbers, default=0) > _COUNT:
        raise ValueError(f"the pattern {pattern!r:.80}, with a repeat of over {_COUNT}")
    if group is None and re.fullmatch(r"\{\d+\}", repeat):
        return  # always as many: nothing to try again
    if group is not None and repeat != "?" and (group.repeats or group.choice):
        raise ValueError(f"the pattern {pattern!r:.80}, which repeats a group with repeats or choices in it")
    around.repeats = True
    if repeat in "*+" or repeat.endswith(",}"):
        around.unbounded += 1
    else:
        around.bounded += 1
    if around.unbounded > _UNBOUNDED_REPEATS or around.bounded > _BOUNDED_REPEATS:
        raise ValueError(f"the pattern {pattern!r:.80}, with too many repeats in a row")


def _after_set(pattern: str, place: int) -> int:
    """The place behind a set of characters, whose begin was read; sets may hold sets. Raises ValueError."""
    depth, first = 1, True
    while place < len(pattern):
        c = pattern[place]
        if c == "^" and first:
            place += 1
            continue
        if c == "\\":
            place += 1
        elif c == "[":
            depth += 1
        elif c == "]" and not first:
            depth -= 1
            if depth == 0:
                return place + 1
        first = False
        place += 1
    raise ValueError(f"the pattern {pattern!r:.80}, with an open set")
