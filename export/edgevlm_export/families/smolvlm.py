"""SmolVLM and Idefics3: a picture in tiles, a vision transformer and a pixel shuffle for each, and a Llama.

The library finds the places of a tile's patches with code that picks out values (NonZero); for a whole tile they are
always the same, so they are found once, here. Tiles are always whole: the processor resizes to multiples of a tile.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from edgevlm.manifest.drivers import CacheSpec
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.families.common.chatting import Parts, Step, chat_cache, chat_graph, prepare_chat, vision_stage
from edgevlm_export.families.common.decoding import CHUNK, Language
from edgevlm_export.families.common.prompts import Words, read_words
from edgevlm_export.families.common.upstream import check_vocabulary, load_model, open_config, unsupported
from edgevlm_export.prepared import Prepared
from edgevlm_export.stage_graph import ChatGraph, Stage

# model_type -> (architecture, processor, config)
CLASSES = {
    "smolvlm": ("SmolVLMForConditionalGeneration", "SmolVLMProcessor", "SmolVLMConfig"),
    "idefics3": ("Idefics3ForConditionalGeneration", "Idefics3Processor", "Idefics3Config"),
}
FULL = "full_attention"
ALLOWED = {"vision_config.num_channels": (3,), "text_config.model_type": ("llama",)}


def prepare(checkpoint: Checkpoint, context: int | None = None) -> Prepared:
    """A SmolVLM or Idefics3 checkpoint directory, to be cut into vision and decoder.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    family = str(checkpoint.config["model_type"])
    architecture, processor, settings = CLASSES[family]
    unsupported(checkpoint, open_config(checkpoint, architecture), ALLOWED)
    config = checkpoint.part(settings)
    words = read_words(checkpoint, processor, None, config.vision_config.image_size)
    cache = chat_cache(checkpoint, config.text_config, context, words)
    check_vocabulary(checkpoint, words.ids, config.text_config.vocab_size)
    return prepare_chat(words, cache, partial(_graph, checkpoint, family, words, cache))


def _graph(checkpoint: Checkpoint, family: str, words: Words, cache: CacheSpec) -> ChatGraph:
    model = load_model(checkpoint, CLASSES[family][0], attn_implementation="eager")
    inside = model.model
    vision = tower_stage(inside.vision_model, inside.connector, model.config.vision_config.image_size)

    def inputs(pixels: Tensor | None, ids: Tensor) -> dict[str, Tensor]:
        return {"input_ids": ids} if pixels is None else {"input_ids": ids, "pixel_values": pixels[None]}

    return chat_graph(
        checkpoint,
        Parts(
            family=family,
            model=model,
            vision=vision,
            language=Language(
                model=model.model.text_model,
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


def tower_stage(tower: Any, connector: Any, side: int, scale: float = 1.0) -> Stage:
    """The vision stage of whole pictures (1, 3, side, side), its features times `scale`."""
    parts, patches = tower.embeddings, side // tower.patch_size
    seen: list[Tensor] = []
    watch = parts.position_embedding.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    with torch.no_grad():
        parts(torch.zeros(1, 3, side, side), torch.ones(1, patches, patches, dtype=torch.bool))
    watch.remove()
    places = seen[0]

    def before(pixels: Tensor) -> Tensor:
        patches = parts.patch_embedding(pixels).flatten(2).transpose(1, 2)
        return patches + parts.position_embedding(places)  # type: ignore[no-any-return]

    def after(hidden: Tensor) -> Tensor:
        features: Tensor = connector(tower.post_layernorm(hidden))
        return features if scale == 1.0 else features * scale

    entering = Step(before, parts.patch_embedding, parts.position_embedding)
    return vision_stage(entering, tower.encoder.layers, Step(after, tower.post_layernorm, connector), side)
