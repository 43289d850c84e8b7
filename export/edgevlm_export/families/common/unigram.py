"""A sentencepiece unigram model (spiece.model) -> a tokenizer.json of the `tokenizers` library.

Every step of the text's way is written into the file's normalizer, so that the runtime needs no code for it.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, processors
from tokenizers.models import Unigram

from edgevlm.errors import CheckpointError, FamilyError, require
from edgevlm_export.checkpoint import AGAIN, Checkpoint

PIECES = "spiece.model"
SPACE = "▁"
UNIGRAM = 1  # sentencepiece's number for the kind of model
UNKNOWN = 2  # and for the kind of piece that stands for what it does not know


def canonical_tokenizer(checkpoint: Checkpoint, end: str, *, lower: bool) -> Tokenizer:
    """The tokenizer of texts without punctuation, `end` after each of them.

    The text's way, as SiglipTokenizer goes it: a space in front, lower case, no ASCII punctuation, white space
    collapsed, then the model's own normalization. Source: transformers, models/siglip/tokenization_siglip.py.

    Raises:
        CheckpointError: no sentencepiece model.
        FamilyError: a model of another kind.
    """
    path, proto = checkpoint / PIECES, _read(checkpoint)
    if proto.trainer_spec.model_type != UNIGRAM:
        raise FamilyError(f"{path}: 'model_type': expected unigram ({UNIGRAM}), got {proto.trainer_spec.model_type}")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(Unigram(pieces, _unknown(path, proto), proto.trainer_spec.byte_fallback))
    tokenizer.normalizer = normalizers.Sequence([*_canonical(lower), *_own(proto.normalizer_spec)])
    unknown = pieces[_unknown(path, proto)][0]
    special = [AddedToken(one, lstrip=True, rstrip=True, normalized=False, special=True) for one in (end, unknown)]
    tokenizer.add_special_tokens(special)
    place = tokenizer.token_to_id(end)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, place)])
    return tokenizer


def _canonical(lower: bool) -> list[Any]:
    final_sigma = normalizers.Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς")  # as Python's str.lower writes it
    punctuation = "".join(f"\\x{ord(sign):02x}" for sign in string.punctuation)
    return [
        normalizers.Replace(SPACE, " "),
        normalizers.Prepend(SPACE),
        *([final_sigma, normalizers.Lowercase()] if lower else []),
        normalizers.Replace(Regex(f"[{punctuation}]"), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(left=False, right=True),
    ]


def _own(spec: Any) -> list[Any]:
    """The model's own normalization, white space at last as its sign."""
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), " ")]
    return [*steps, normalizers.Replace(" ", SPACE)]


def _unknown(path: Path, proto: Any) -> int:
    found = [place for place, piece in enumerate(proto.pieces) if piece.type == UNKNOWN]
    if len(found) != 1:
        raise CheckpointError(f"{path}: expected one piece for what is unknown, found {len(found)}; {AGAIN}")
    return found[0]


def _read(checkpoint: Checkpoint) -> Any:
    path = checkpoint / PIECES
    library = require("transformers.convert_slow_tokenizer", extra="export")
    proto = library.import_protobuf().ModelProto()
    errors = require("google.protobuf.message", extra="export")
    try:
        proto.ParseFromString(checkpoint.read(PIECES))
    except errors.DecodeError as error:
        raise CheckpointError(f"{path}: expected a sentencepiece model, got an error: {error}; {AGAIN}") from error
    if not proto.pieces:
        raise CheckpointError(f"{path}: expected a sentencepiece model, found no pieces in it; {AGAIN}")
    return proto
