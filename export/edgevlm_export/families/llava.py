"""LLaVA 1.5: a CLIP vision transformer without its last layers, a projection, and a Llama that reads the features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from edgevlm.errors import FamilyError
from edgevlm_export.checkpoint import CONFIG
from edgevlm_export.families.chatting import Parts, Step, cache_spec, chat_graph, vision_stage
from edgevlm_export.families.decoding import CHUNK, Language
from edgevlm_export.families.prompts import read_words
from edgevlm_export.families.upstream import check_vocabulary, load_model, open_config, unsupported
from edgevlm_export.stage_graph import ChatGraph, Stage

ARCHITECTURE = "LlavaForConditionalGeneration"
FULL = "full_attention"
ALLOWED = {
    "vision_config.model_type": ("clip_vision_model",),
    "vision_config.num_channels": (3,),
    "text_config.model_type": ("llama",),
    "vision_feature_select_strategy": ("default", "full"),
}


def build(checkpoint: Path, context: int | None = None) -> ChatGraph:
    """A LLaVA checkpoint directory, cut into vision and decoder.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    said = open_config(checkpoint, ARCHITECTURE)
    unsupported(checkpoint, said, ALLOWED)
    if not isinstance(said.get("vision_feature_layer", -2), int):
        raise _no_such_layer(checkpoint, "one", said["vision_feature_layer"])
    model = load_model(checkpoint, ARCHITECTURE, attn_implementation="eager")
    config = model.config
    cache = cache_spec(checkpoint, config.text_config, context)
    vision = _vision(checkpoint, model)
    size = config.vision_config.image_size
    words = read_words(checkpoint, "LlavaProcessor", int(vision.outputs[0].shape[1]), size)
    check_vocabulary(checkpoint, words.ids, config.text_config.vocab_size)

    def inputs(pixels: Tensor | None, ids: Tensor) -> dict[str, Tensor]:
        return {"input_ids": ids} if pixels is None else {"input_ids": ids, "pixel_values": pixels}

    return chat_graph(
        checkpoint,
        Parts(
            family="llava",
            model=model,
            vision=vision,
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


def _vision(checkpoint: Path, model: Any) -> Stage:
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


def _no_such_layer(checkpoint: Path, expected: str, got: object) -> FamilyError:
    return FamilyError(
        f"{checkpoint / CONFIG}: 'vision_feature_layer': expected {expected}, got {got!r:.80}; this variant is not "
        "supported"
    )
