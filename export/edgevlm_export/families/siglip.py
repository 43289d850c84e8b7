"""SigLIP: a vision transformer with an attention pool, a text transformer; probabilities by a sigmoid of each pair.

The text transformer looks both ways and pools at the last place, so a text is always filled up to the full length.
Whether the filling is masked is the tokenizer's own setting ('model_input_names'), and changes the embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgevlm.manifest import PICTURE, DualArgs, DualSpec, TextSpec
from edgevlm_export.families.checkpoint import tokenizer_file
from edgevlm_export.families.dual import Encode, EncodeMasked, reference, text_stage, vision_stage
from edgevlm_export.families.picture_ops import picture_ops
from edgevlm_export.families.unigram import canonical_tokenizer
from edgevlm_export.families.upstream import (
    check_vocabulary,
    directory_sha256,
    load_model,
    load_part,
    open_config,
    unsupported,
)
from edgevlm_export.stage_graph import RetrieverGraph, Stage

PIECES = "spiece.model"
ACTIVATIONS = ("gelu_pytorch_tanh", "gelu", "gelu_new", "quick_gelu", "relu", "silu")
ALLOWED = {
    "vision_config.num_channels": (3,),
    "vision_config.vision_use_head": (True,),
    "vision_config.hidden_act": ACTIVATIONS,
    "text_config.hidden_act": ACTIVATIONS,
}


def build(checkpoint: Path) -> RetrieverGraph:
    """A SigLIP checkpoint directory, cut into vision and text.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    unsupported(checkpoint, open_config(checkpoint, "SiglipModel"), ALLOWED)
    upstream = load_part(checkpoint, "SiglipTokenizer")
    tokenizer, ids = _tokenizer(checkpoint, upstream)
    model = load_model(checkpoint, "SiglipModel")
    config = model.config
    check_vocabulary(checkpoint, ids, config.text_config.vocab_size)
    most, size = config.text_config.max_position_embeddings, config.vision_config.image_size
    masked = "attention_mask" in upstream.model_input_names
    processor = load_part(checkpoint, "SiglipImageProcessorPil")

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
        preprocess={PICTURE: picture_ops(checkpoint, processor, size)},
        tokenizer=tokenizer,
        text=TextSpec(max_tokens=most, length="fixed", pad_id=upstream.pad_token_id),
        reference=reference(model, tokenize),
        source_sha256=directory_sha256(checkpoint),
    )


def _tokenizer(checkpoint: Path, upstream: Any) -> tuple[Path | str, int]:
    """(tokenizer.json or its content, how many ids it puts out); the sentencepiece model is upstream's choice."""
    if not (checkpoint / PIECES).is_file():
        return tokenizer_file(checkpoint)
    made = canonical_tokenizer(checkpoint / PIECES, upstream.eos_token, lower=upstream.do_lower_case)
    return made.to_str(), made.get_vocab_size()


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
