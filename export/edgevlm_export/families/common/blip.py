"""What the BLIP models share: a vision transformer, and BERT layers that look at a picture besides their own words.

What a layer looks at, its cross keys and values, depends on the picture alone: the vision stage puts it out, once for
each picture, and neither a new word nor another text computes it again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.manifest.image_ops import ImageOp
from edgevlm.manifest.schema import Port
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.families.common.chatting import Step, picture_stage, tower_pieces
from edgevlm_export.families.common.decoding import Joined
from edgevlm_export.families.common.upstream import (
    check_vocabulary,
    load_model,
    open_config,
    tokenizer_json,
    unsupported,
)
from edgevlm_export.families.common.upstream_inputs import check_texts, read_pictures
from edgevlm_export.stage_graph import Stage
from edgevlm_export.tracing.repeated_layers import Piece

ALLOWED = {
    "vision_config.model_type": ("blip_vision_model",),
    "text_config.model_type": ("blip_text_model",),
    "text_config.is_decoder": (True,),  # without it the layers of the text cannot look at a picture
}
IMAGE, QUESTION = "image", "question"  # what keys and values are of: the first part of their ports' names
LENGTHS = (3, 5)  # of the texts traced


@dataclass(frozen=True)
class Blip:
    """The small files of a checkpoint, opened.

    Attributes:
        config: of upstream's.
        tokenizer: its tokenizer, of upstream's.
        tokenizer_json: the same, for the bundle.
        operations: what is done to a picture.
    """

    checkpoint: Checkpoint
    architecture: str
    config: Any
    tokenizer: Any
    tokenizer_json: str
    operations: tuple[ImageOp, ...]

    @cached_property
    def model(self) -> Any:
        """Upstream's, with its weights, from the first use on."""
        return load_model(self.checkpoint, self.architecture, attn_implementation="eager")


def open_blip(checkpoint: Checkpoint, architecture: str) -> Blip:
    """A checkpoint directory of one of the BLIP models, its weights not loaded.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    unsupported(checkpoint, open_config(checkpoint, architecture), ALLOWED)
    config = checkpoint.part("BlipConfig")
    tokenizer = checkpoint.tokenizer
    content = tokenizer_json(checkpoint, tokenizer)
    ids = max(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    check_vocabulary(checkpoint, ids, config.text_config.vocab_size)
    check_texts(checkpoint, content, tokenizer)
    operations = read_pictures(checkpoint, config.vision_config.image_size)
    return Blip(checkpoint, architecture, config, tokenizer, content, operations)


def vision_stage(
    tower: Any, layers: Sequence[Any], beside: Sequence[tuple[Piece, Port]] = (), name: str = IMAGE
) -> Stage:
    """pixels (1, 3, S, S) -> the cross keys and values of every layer of a text, then what is asked for `beside`.

    Args:
        tower: upstream's vision model.
        layers: of upstream's text model.
        beside: pieces that read `features` (1, T, H), the last hidden state, and the port of what each makes.
    """
    enter = Step(lambda pixels: tower.embeddings(pixels), tower.embeddings)
    pieces = tower_pieces(enter, tower.encoder.layers)
    pieces.append(Piece("norm", "norm", tower.post_layernorm, pieces[-1].outputs, ("features",)))
    pieces += look_pieces(layers, "features", name)
    pieces += [piece for piece, _ in beside]
    size = tower.config.image_size
    ports = cross_ports(layers, name, (size // tower.config.patch_size) ** 2 + 1)
    return picture_stage(pieces, size, (*ports, *(port for _, port in beside)))


def cross_ports(layers: Sequence[Any], name: str, length: int | str) -> tuple[Port, ...]:
    """`<name>_key_<i>` and `<name>_value_<i>` (1, `length`, heads, head_dim) of every layer."""
    ports = []
    for i, layer in enumerate(layers):
        attention = layer.crossattention.self
        shape = (1, length, attention.num_attention_heads, attention.attention_head_size)
        ports.append(Port(name=f"{name}_key_{i}", dtype="float32", shape=shape, kind="cross_key"))
        ports.append(Port(name=f"{name}_value_{i}", dtype="float32", shape=shape, kind="cross_value"))
    return tuple(ports)


def look_pieces(layers: Sequence[Any], features: str, name: str) -> list[Piece]:
    """`features` (1, N, H) -> what `cross_ports` names."""
    return [
        Piece(f"look_{i}", "look", Look(layer), (features,), (f"{name}_key_{i}", f"{name}_value_{i}"))
        for i, layer in enumerate(layers)
    ]


def reading_pieces(text: Any, states: str = "states") -> list[Piece]:
    """ids (1, L) and the picture's keys and values -> `states` (1, L, H): each word sees all words and the picture."""
    pieces = [Piece("words", "words", Words(text.embeddings), ("ids",), ("hidden",))]
    hidden, last = "hidden", len(text.encoder.layer) - 1
    for i, layer in enumerate(text.encoder.layer):
        made = states if i == last else f"hidden_{i}"
        reads = (hidden, f"{IMAGE}_key_{i}", f"{IMAGE}_value_{i}")
        pieces.append(Piece(f"layer_{i}", "layer", ReadingLayer(layer), reads, (made,)))
        hidden = made
    return pieces


class Words(nn.Module):
    """ids (1, L) -> the vectors (1, L, H) that the first layer reads, places counted from 0."""

    def __init__(self, embeddings: Any) -> None:
        super().__init__()
        self.embeddings = embeddings

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors. Upstream adds the places in place, which no exporter should see."""
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        return entered(self.embeddings, self.embeddings.word_embeddings(ids), places)


class Entering(nn.Module):
    """embeds (1, Q, H) of words, positions (1, Q) -> the vectors (1, Q, H) that the first layer reads."""

    def __init__(self, embeddings: Any) -> None:
        super().__init__()
        self.position_embeddings, self.LayerNorm = embeddings.position_embeddings, embeddings.LayerNorm

    def forward(self, embeds: Tensor, positions: Tensor) -> Tensor:
        """The vectors."""
        return entered(self, embeds, positions)


def entered(embeddings: Any, embeds: Tensor, positions: Tensor) -> Tensor:
    """Words with their places."""
    out: Tensor = embeddings.LayerNorm(embeds + embeddings.position_embeddings(positions))
    return out


class Look(nn.Module):
    """features (1, N, H) -> the key and the value (1, N, heads, head_dim) of one layer's cross attention."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention = layer.crossattention.self
        self.key, self.value = attention.key, attention.value
        self._shape = (1, -1, attention.num_attention_heads, attention.attention_head_size)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value."""
        return self.key(features).view(self._shape), self.value(features).view(self._shape)


class AloneLayer(nn.Module):
    """hidden (1, L, H) -> the same: a layer whose words see each other, and no picture."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention, self.intermediate, self.output = layer.attention, layer.intermediate, layer.output

    def forward(self, hidden: Tensor) -> Tensor:
        """The next layer's input."""
        seen = self.attention(hidden)[0]
        out: Tensor = self.output(self.intermediate(seen), seen)
        return out


class ReadingLayer(nn.Module):
    """hidden (1, L, H), a picture's key and value -> hidden: a layer whose words see each other and the picture."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention, self.intermediate, self.output = layer.attention, layer.intermediate, layer.output
        self.looking = Looking(layer.crossattention)

    def forward(self, hidden: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The next layer's input."""
        seen = self.looking(self.attention(hidden)[0], key, value)
        out: Tensor = self.output(self.intermediate(seen), seen)
        return out


class SayingLayer(ReadingLayer):
    """One layer over hidden (1, Q, H), mask (1, 1, Q, P + Q), its past and what it looks at, each (1, N, heads, d)."""

    def forward(  # type: ignore[override]  # the tensors that a layer reads
        self, hidden: Tensor, mask: Tensor, past_key: Tensor, past_value: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """hidden, and the new key and value (1, Q, heads, head_dim)."""
        cache = Joined(past_key, past_value)
        read = self.attention(hidden, attention_mask=mask, past_key_values=cache)[0]
        seen = self.looking(read, key, value)
        assert cache.new is not None
        new_key, new_value = cache.new
        return self.output(self.intermediate(seen), seen), new_key.transpose(1, 2), new_value.transpose(1, 2)


class Looking(nn.Module):
    """Cross attention with keys and values that are ready: hidden (1, Q, H), each (1, N, heads, d) -> hidden."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.query, self.output = attention.self.query, attention.output
        self._heads, self._size = attention.self.num_attention_heads, attention.self.attention_head_size

    def forward(self, hidden: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As upstream's, which would make keys and values of the features again."""
        query = self.query(hidden).view(1, -1, self._heads, self._size).transpose(1, 2)  # (1, heads, Q, d)
        scores = torch.matmul(query, key.permute(0, 2, 3, 1)) / math.sqrt(self._size)
        found = torch.matmul(torch.softmax(scores, -1), value.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.output(found.reshape(1, -1, self._heads * self._size), hidden)
        return out
