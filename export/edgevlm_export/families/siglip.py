"""SigLIP: a vision transformer with an attention pool, a text transformer; probabilities by a sigmoid of each pair.

The text transformer looks both ways and pools at the last place, so a text is always filled up to the full length.
Whether the filling is masked is the tokenizer's own setting ('model_input_names'), and changes the embedding.

Its sentencepiece model (spiece.model) becomes a tokenizer.json of the `tokenizers` library: every step of the text's
way is written into the file's normalizer, so that the runtime needs no code for it.
"""

from __future__ import annotations

import string
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, processors
from tokenizers.models import Unigram
from torch import Tensor

from edgevlm.errors import CheckpointError, FamilyError, require
from edgevlm.manifest.image_ops import ImageOp
from edgevlm.manifest.schema import PICTURE, DualArgs, DualSpec, TextSpec
from edgevlm_export.checkpoint import AGAIN, TOKENIZER, Checkpoint
from edgevlm_export.families.common.dual import Encode, EncodeMasked, reference, text_stage, vision_stage
from edgevlm_export.families.common.upstream import (
    backend_of,
    bundle_tokenizer,
    check_vocabulary,
    load_model,
    open_config,
    tokenizer_content,
    unsupported,
)
from edgevlm_export.families.common.upstream_inputs import check_texts, read_pictures, text_room
from edgevlm_export.prepared import Prepared
from edgevlm_export.stage_graph import RetrieverGraph, Stage

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


ACTIVATIONS = ("gelu_pytorch_tanh", "gelu", "gelu_new", "quick_gelu", "relu", "silu")
ALLOWED = {
    "vision_config.num_channels": (3,),
    "vision_config.vision_use_head": (True,),
    "vision_config.hidden_act": ACTIVATIONS,
    "text_config.hidden_act": ACTIVATIONS,
}


def prepare(checkpoint: Checkpoint) -> Prepared:
    """A SigLIP checkpoint directory, to be cut into vision and text; SigLIP 2 of a fixed size is one as well.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    unsupported(checkpoint, open_config(checkpoint, "SiglipModel"), ALLOWED)
    config = checkpoint.part("SiglipConfig")
    upstream = checkpoint.tokenizer
    tokenizer, ids = _tokenizer(checkpoint, upstream)
    check_vocabulary(checkpoint, ids, config.text_config.vocab_size)
    _check_padding(checkpoint, upstream)
    rewritten = checkpoint.has(TOKENIZER) and tokenizer != tokenizer_content(checkpoint)
    check_texts(checkpoint, tokenizer, upstream, rewritten=rewritten)
    operations = read_pictures(checkpoint, config.vision_config.image_size)
    room = text_room(tokenizer, config.text_config.max_position_embeddings)
    return Prepared(task="retriever", load=partial(_load, checkpoint, upstream, tokenizer, operations), room=room)


def _load(checkpoint: Checkpoint, upstream: Any, tokenizer: str, operations: tuple[ImageOp, ...]) -> RetrieverGraph:
    model = load_model(checkpoint, "SiglipModel")
    config = model.config
    most, size = config.text_config.max_position_embeddings, config.vision_config.image_size
    masked = "attention_mask" in upstream.model_input_names

    def vision(pixels: Tensor) -> Tensor:
        return model.vision_model(pixel_values=pixels).pooler_output  # type: ignore[no-any-return]

    def tokenize(texts: list[str]) -> Any:
        return upstream(texts, padding="max_length", max_length=most, return_tensors="pt")

    return RetrieverGraph(
        family="siglip",
        stages=(
            vision_stage(Encode(model, vision), size, config.vision_config.hidden_size),
            _text(model, most, masked),
        ),
        driver=DualSpec(
            args=DualArgs(
                vision="vision",
                text="text",
                scale=float(model.logit_scale.exp()),
                bias=float(model.logit_bias),
                scores="sigmoid",
            )
        ),
        preprocess={PICTURE: operations},
        tokenizer=tokenizer,
        text=TextSpec(max_tokens=most, length="fixed", pad_id=upstream.pad_token_id),
        reference=reference(model, tokenize),
        source_sha256=checkpoint.sha256(),
    )


def _tokenizer(checkpoint: Checkpoint, upstream: Any) -> tuple[str, int]:
    """(tokenizer.json or its content, how many ids it puts out): as the tokenizer's class reads a text.

    SigLIP's own reads a sentencepiece model. SigLIP 2 has Gemma's, and was trained on texts in lower case: where the
    class does not see to that and 'do_lower_case' says so, it is written into the tokenizer, and into upstream's.
    """
    if not isinstance(upstream, require("transformers", extra="export").SiglipTokenizer):
        if not upstream.init_kwargs.get("do_lower_case") or upstream("A").input_ids == upstream("a").input_ids:
            return bundle_tokenizer(checkpoint, upstream)
        engine = backend_of(checkpoint, upstream)
        own = [] if engine.normalizer is None else [engine.normalizer]
        engine.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
        return engine.to_str(), max(engine.get_vocab(with_added_tokens=True).values()) + 1
    made = canonical_tokenizer(checkpoint, upstream.eos_token, lower=upstream.do_lower_case)
    return made.to_str(), made.get_vocab_size()


def _check_padding(checkpoint: Checkpoint, upstream: Any) -> None:
    """Refuse a tokenizer that fills up before the text, or cannot: the model reads the last place."""
    if upstream.padding_side != "right" or upstream.pad_token_id is None:
        raise FamilyError(
            f"{checkpoint}: the tokenizer {type(upstream).__name__}: expected one that fills up behind a text "
            f"('padding_side' right, a 'pad_token'), got {upstream.padding_side!r} and {upstream.pad_token!r}; "
            "give the tokenizer_config.json that the model was trained with"
        )


def _text(model: Any, tokens: int, masked: bool) -> Stage:
    def plain(ids: Tensor) -> Tensor:
        return model.text_model(input_ids=ids).pooler_output  # type: ignore[no-any-return]

    def hidden(ids: Tensor, mask: Tensor) -> Tensor:
        # Four dimensions, added to the attention: goes straight through, and no mask is computed in the graph.
        added = (1.0 - mask)[:, None, None, :] * torch.finfo(torch.float32).min
        added = added.expand(-1, 1, tokens, -1)
        return model.text_model(input_ids=ids, attention_mask=added).pooler_output  # type: ignore[no-any-return]

    width = model.config.text_config.projection_size
    module = EncodeMasked(model, hidden) if masked else Encode(model, plain)
    return text_stage(module, tokens, width, masked=masked)
