"""PaliGemma (a SigLIP transformer and a Gemma) and PaliGemma 2 (and a Gemma 2): the prompt sees itself whole.

Positions begin at 1. A Gemma 2 squashes its scores and its logits, and every second layer of it looks back only so
far; in a prompt that sees itself whole, those layers see all of it as well.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from edgevlm.errors import FamilyError
from edgevlm.manifest.drivers import CacheSpec
from edgevlm_export.checkpoint import CONFIG, Checkpoint
from edgevlm_export.families.common.chatting import Parts, Step, chat_cache, chat_graph, prepare_chat, vision_stage
from edgevlm_export.families.common.decoding import Language
from edgevlm_export.families.common.prompts import Words, read_words
from edgevlm_export.families.common.upstream import check_vocabulary, load_model, open_config, unsupported
from edgevlm_export.prepared import Prepared
from edgevlm_export.stage_graph import ChatGraph, Stage

ARCHITECTURE = "PaliGemmaForConditionalGeneration"
FIRST = 1
FULL, SLIDING = "full_attention", "sliding_attention"
ALLOWED = {
    "vision_config.model_type": ("siglip_vision_model",),
    "vision_config.num_channels": (3,),
    "text_config.model_type": ("gemma", "gemma2"),
    "text_config.use_bidirectional_attention": (True,),
}


def prepare(checkpoint: Checkpoint, context: int | None = None) -> Prepared:
    """A PaliGemma checkpoint directory, to be cut into vision and decoder.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    unsupported(checkpoint, open_config(checkpoint, ARCHITECTURE), ALLOWED)
    config = checkpoint.part("PaliGemmaConfig")
    words = read_words(checkpoint, "PaliGemmaProcessor", None, config.vision_config.image_size)
    cache = chat_cache(checkpoint, config.text_config, context, words)
    check_vocabulary(checkpoint, words.ids, config.text_config.vocab_size)
    _kinds(checkpoint, config.text_config)
    return prepare_chat(words, cache, partial(_graph, checkpoint, words, cache))


def _graph(checkpoint: Checkpoint, words: Words, cache: CacheSpec) -> ChatGraph:
    model = load_model(checkpoint, ARCHITECTURE, attn_implementation="eager")
    text = model.config.text_config
    return chat_graph(
        checkpoint,
        Parts(
            family="paligemma",
            model=model,
            vision=_vision(model),
            language=Language(
                model=model.model.language_model,
                head=model.lm_head,
                cache=cache,
                kinds=_kinds(checkpoint, text),
                longest=cache.slots,
                softcap=getattr(text, "final_logit_softcapping", None),
            ),
            words=words,
            inputs=_inputs,
            windows={FULL: None, SLIDING: getattr(text, "sliding_window", None)},
            bidirectional=True,
            first_position=FIRST,
        ),
    )


def _inputs(pixels: Tensor | None, ids: Tensor) -> dict[str, Tensor]:
    """The type 0 marks the prompt."""
    given = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
    return given if pixels is None else {**given, "pixel_values": pixels}


def _kinds(checkpoint: Checkpoint, text: Any) -> tuple[str, ...]:
    kinds = tuple(getattr(text, "layer_types", None) or (FULL,) * text.num_hidden_layers)
    if unknown := sorted(set(kinds) - {FULL, SLIDING}):
        raise FamilyError(
            f"{checkpoint / CONFIG}: 'text_config.layer_types': expected {FULL!r} and {SLIDING!r}, got {unknown}; "
            "this variant is not supported"
        )
    return kinds


def _vision(model: Any) -> Stage:
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector

    def after(hidden: Tensor) -> Tensor:
        return projector(tower.post_layernorm(hidden))  # type: ignore[no-any-return]

    leaving = Step(after, tower.post_layernorm, projector)
    before = Step(lambda pixels: tower.embeddings(pixels), tower.embeddings)
    return vision_stage(before, tower.encoder.layers, leaving, model.config.vision_config.image_size)
