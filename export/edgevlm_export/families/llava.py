"""LLaVA 1.5: a CLIP vision transformer without its last layers, a projection, and a Llama that reads the features."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from edgevlm.errors import FamilyError
from edgevlm.manifest.drivers import CacheSpec
from edgevlm_export.checkpoint import CONFIG, Checkpoint
from edgevlm_export.families.common.chatting import Parts, Step, chat_cache, chat_graph, prepare_chat, vision_stage
from edgevlm_export.families.common.decoding import CHUNK, Language
from edgevlm_export.families.common.prompts import Words, read_words
from edgevlm_export.families.common.upstream import check_vocabulary, load_model, open_config, unsupported
from edgevlm_export.prepared import Prepared
from edgevlm_export.stage_graph import ChatGraph, Stage

ARCHITECTURE = "LlavaForConditionalGeneration"
FULL = "full_attention"
ALLOWED = {
    "vision_config.model_type": ("clip_vision_model",),
    "vision_config.num_channels": (3,),
    "text_config.model_type": ("llama",),
    "vision_feature_select_strategy": ("default", "full"),
}


def prepare(checkpoint: Checkpoint, context: int | None = None) -> Prepared:
    """A LLaVA checkpoint directory, to be cut into vision and decoder.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    said = open_config(checkpoint, ARCHITECTURE)
    unsupported(checkpoint, said, ALLOWED)
    if not isinstance(said.get("vision_feature_layer", -2), int):
        raise _no_such_layer(checkpoint, "one", said["vision_feature_layer"])
    config = checkpoint.part("LlavaConfig")
    words = read_words(checkpoint, "LlavaProcessor", None, config.vision_config.image_size)
    cache = chat_cache(checkpoint, config.text_config, context, words)
    check_vocabulary(checkpoint, words.ids, config.text_config.vocab_size)
    return prepare_chat(words, cache, partial(_graph, checkpoint, words, cache))


def _graph(checkpoint: Checkpoint, words: Words, cache: CacheSpec) -> ChatGraph:
    model = load_model(checkpoint, ARCHITECTURE, attn_implementation="eager")

    def inputs(pixels: Tensor | None, ids: Tensor) -> dict[str, Tensor]:
        return {"input_ids": ids} if pixels is None else {"input_ids": ids, "pixel_values": pixels}

    return chat_graph(
        checkpoint,
        Parts(
            family="llava",
            model=model,
            vision=_vision(checkpoint, model),
            language=Language(
                model=model.model.language_model,
                head=model.lm_head,
                cache=cache,
                kinds=(FULL,) * cache.layers,
                longest=min(CHUNK, cache.slots),
            ),
            words=words,
            inputs=inputs,
            windows={FULL: None},
        ),
    )


def _vision(checkpoint: Checkpoint, model: Any) -> Stage:
    tower, projector, config = model.model.vision_tower, model.model.multi_modal_projector, model.config
    layers = tower.encoder.layers
    chosen = config.vision_feature_layer
    if not -len(layers) - 1 <= chosen <= len(layers):
        raise _no_such_layer(checkpoint, f"one of {len(layers)}", chosen)
    count = chosen if chosen >= 0 else len(layers) + 1 + chosen  # -1 is what the last layer puts out
    first = 1 if config.vision_feature_select_strategy == "default" else 0  # without the class token

    def before(pixels: Tensor) -> Tensor:
        return tower.pre_layrnorm(tower.embeddings(pixels))  # type: ignore[no-any-return]

    def after(hidden: Tensor) -> Tensor:
        return projector(hidden[:, first:])  # type: ignore[no-any-return]

    entering = Step(before, tower.embeddings, tower.pre_layrnorm)
    return vision_stage(entering, layers[:count], Step(after, projector), config.vision_config.image_size)


def _no_such_layer(checkpoint: Checkpoint, expected: str, got: object) -> FamilyError:
    return FamilyError(
        f"{checkpoint / CONFIG}: 'vision_feature_layer': expected {expected}, got {got!r:.80}; this variant is not "
        "supported"
    )
