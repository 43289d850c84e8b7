"""BLIP-2 with OPT: a vision transformer, a few queries that look at it (the Q-Former), and OPT, which reads them.

The picture comes first in the row, before the sign that a text begins with: what was read of it serves every question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from edgevlm.errors import FamilyError
from edgevlm.manifest.drivers import CacheSpec
from edgevlm_export.checkpoint import CONFIG, Checkpoint
from edgevlm_export.families.common.chatting import (
    Parts,
    Step,
    chat_cache,
    chat_graph,
    picture_stage,
    prepare_chat,
    tower_pieces,
)
from edgevlm_export.families.common.decoding import CHUNK, MASKS, Head, Joined, Language
from edgevlm_export.families.common.prompts import Words, read_words
from edgevlm_export.families.common.upstream import check_vocabulary, load_model, open_config, unsupported
from edgevlm_export.prepared import Prepared
from edgevlm_export.stage_graph import ChatGraph, Stage
from edgevlm_export.tracing.repeated_layers import Piece

ARCHITECTURE = "Blip2ForConditionalGeneration"
FULL = "full_attention"
OPT_WIDTH = 768  # where the configuration does not say it
ALLOWED = {
    "vision_config.model_type": ("blip_2_vision_model",),
    "qformer_config.model_type": ("blip_2_qformer",),
    "text_config.model_type": ("opt",),  # T5 has an encoder of its own
    "qformer_config.use_qformer_text_input": (False,),
}


def prepare(checkpoint: Checkpoint, context: int | None = None) -> Prepared:
    """A BLIP-2 checkpoint directory, to be cut into vision and decoder.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    said = open_config(checkpoint, ARCHITECTURE)
    unsupported(checkpoint, said, ALLOWED)
    told = said.get("text_config") or {}
    width = told.get("hidden_size", OPT_WIDTH)
    if told.get("word_embed_proj_dim") not in (None, width):
        raise _unknown(checkpoint, "text_config.word_embed_proj_dim", f"'hidden_size' {width}", told)
    if not isinstance(said.get("image_token_index", said.get("image_token_id")), int):
        raise _unknown(checkpoint, "image_token_index", "the id of the image token, as newer checkpoints have", said)
    config = checkpoint.part("Blip2Config")
    words = read_words(checkpoint, "Blip2Processor", config.num_query_tokens, config.vision_config.image_size)
    cache = chat_cache(checkpoint, config.text_config, context, words)
    check_vocabulary(checkpoint, words.ids, config.text_config.vocab_size)
    return prepare_chat(words, cache, partial(_graph, checkpoint, words, cache))


def _graph(checkpoint: Checkpoint, words: Words, cache: CacheSpec) -> ChatGraph:
    model = load_model(checkpoint, ARCHITECTURE, attn_implementation="eager")

    def inputs(pixels: Tensor | None, ids: Tensor) -> dict[str, Tensor]:
        assert pixels is not None  # this model says nothing without a picture
        return {"input_ids": ids, "pixel_values": pixels}

    return chat_graph(
        checkpoint,
        Parts(
            family="blip-2",
            model=model,
            vision=_vision(model),
            language=Placed(
                model=model.language_model.model.decoder,
                head=model.language_model.lm_head,
                cache=cache,
                kinds=(FULL,) * cache.layers,
                longest=min(CHUNK, cache.slots),
            ),
            words=words,
            inputs=inputs,
            windows={FULL: None},
            generator=model.language_model,
        ),
    )


def _vision(model: Any) -> Stage:
    """Pixels -> what each query has found, as OPT reads it."""
    tower, former = model.vision_model, model.qformer
    enter = Step(lambda pixels: tower.embeddings(pixels), tower.embeddings)
    pieces = tower_pieces(enter, tower.encoder.layers)
    pieces.append(Piece("norm", "norm", tower.post_layernorm, pieces[-1].outputs, ("seen",)))
    found, layers = "", former.encoder.layer
    for i, layer in enumerate(layers):
        made = f"found_{i}"
        if i == 0:  # it always looks at the picture
            first = FirstQueries(model.query_tokens, former.layernorm, layer)
            pieces.append(Piece("queries_0", "first", first, ("seen",), (made,)))
        elif layer.has_cross_attention:
            pieces.append(Piece(f"queries_{i}", "looking", LookingQueries(layer), (found, "seen"), (made,)))
        else:
            pieces.append(Piece(f"queries_{i}", "thinking", ThinkingQueries(layer), (found,), (made,)))
        found = made
    pieces.append(Piece("after", "after", model.language_projection, (found,), ("features",)))
    return picture_stage(pieces, model.config.vision_config.image_size)


class ThinkingQueries(nn.Module):
    """One layer of the Q-Former whose queries look at each other alone: found (1, N, H) -> found."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention, self.intermediate = layer.attention, layer.intermediate_query
        self.output = layer.output_query

    def forward(self, found: Tensor) -> Tensor:
        """The next layer's input."""
        return self._thought(self.attention(found))

    def _thought(self, seen: Tensor) -> Tensor:
        out: Tensor = self.output(self.intermediate(seen), seen)
        return out


class LookingQueries(ThinkingQueries):
    """One layer of the Q-Former whose queries look at the picture as well: found (1, N, H), seen (1, T, V) -> found."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.crossattention = layer.crossattention

    def forward(self, found: Tensor, seen: Tensor) -> Tensor:  # type: ignore[override]
        """The next layer's input."""
        return self._thought(self.crossattention(self.attention(found), encoder_hidden_states=seen))


class FirstQueries(LookingQueries):
    """The first layer, with the queries that every picture is asked."""

    def __init__(self, queries: nn.Parameter, norm: nn.Module, layer: Any) -> None:
        super().__init__(layer)
        self.queries, self.norm = queries, norm

    def forward(self, seen: Tensor) -> Tensor:  # type: ignore[override]
        """The next layer's input."""
        return super().forward(self.norm(self.queries), seen)


@dataclass(frozen=True)
class Placed(Language):
    """OPT: the place of each token is learned and added once, before the first layer."""

    def pieces(self) -> list[Piece]:
        """The stage's."""
        found = [Piece("enter", "enter", Places(self.model.embed_positions), ("embeds", "positions"), ("hidden",))]
        hidden = "hidden"
        for i, layer in enumerate(self.model.layers):
            reads = (hidden, MASKS[FULL], f"past_key_{i}", f"past_value_{i}")
            hidden = f"hidden_{i}"
            found.append(
                Piece(f"layer_{i}", "layer", PlacedLayer(layer), reads, (hidden, f"new_key_{i}", f"new_value_{i}"))
            )
        head = Head(self.model.final_layer_norm or nn.Identity(), self.head, None)
        found.append(Piece("head", "head", head, (hidden, "index"), ("logits",)))
        return found


class Places(nn.Module):
    """embeds (1, Q, H), positions (1, Q) -> the vectors (1, Q, H) that the first layer reads."""

    def __init__(self, places: Any) -> None:
        super().__init__()
        self.places = places

    def forward(self, embeds: Tensor, positions: Tensor) -> Tensor:
        """The vectors; the table begins with two rows that no token has."""
        out: Tensor = embeds + self.places(None, position_ids=positions)
        return out


class PlacedLayer(nn.Module):
    """One layer over hidden (1, Q, H), mask (1, 1, Q, P + Q) and its past (1, P, heads, head_dim)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, hidden: Tensor, mask: Tensor, past_key: Tensor, past_value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """hidden, and the new key and value (1, Q, heads, head_dim)."""
        cache = Joined(past_key, past_value)
        out = self.layer(hidden, attention_mask=mask, past_key_values=cache)
        assert cache.new is not None
        key, value = cache.new
        return out, key.transpose(1, 2), value.transpose(1, 2)


def _unknown(checkpoint: Checkpoint, field: str, expected: str, found: Mapping[str, Any]) -> FamilyError:
    got = found.get(field.rpartition(".")[2])
    return FamilyError(
        f"{checkpoint / CONFIG}: {field!r}: expected {expected}, got {got!r:.80}; this variant is not supported"
    )
