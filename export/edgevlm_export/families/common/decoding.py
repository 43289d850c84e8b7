"""The decoder stage of any of the library's language models: its layers with flat keys and values, and the ports.

A mask of four dimensions that is added to the scores goes straight through the library's layers, so none of its code
for masks lands in the graph, and neither do its caches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.manifest.drivers import KEYS, PAST, QUERY, CacheSpec
from edgevlm.manifest.schema import Port
from edgevlm_export.stage_graph import Stage
from edgevlm_export.tracing.repeated_layers import Chain, Piece

STEP = 64  # slots: an engine meets a context of 2048 in 32 shapes
CHUNK = 256  # tokens of one run of the prompt
EXAMPLES = ((3, 4), (5, 8))  # (query, past) of the two traced sizes: no two of these numbers may be equal by chance
MASKS = {"full_attention": "mask", "sliding_attention": "sliding_mask"}


class Joined:
    """The cache of one layer, as the library's attention asks for it: past and new side by side."""

    def __init__(self, past_key: Tensor, past_value: Tensor) -> None:
        self._past = past_key, past_value
        self.new: tuple[Tensor, Tensor] | None = None

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """All keys and values; the new ones are kept. Each (1, heads, tokens, head_dim)."""
        self.new = key, value
        past_key, past_value = self._past
        return torch.cat([past_key.transpose(1, 2), key], 2), torch.cat([past_value.transpose(1, 2), value], 2)


class Angles(nn.Module):
    """positions (1, Q) -> cosines and sines (1, Q, head_dim) of the rotary embedding."""

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The rotation of each position."""
        cos, sin = self.rotary(torch.zeros(1, dtype=torch.float32), positions)
        return cos, sin


class Layer(nn.Module):
    """One layer over hidden (1, Q, H), mask (1, 1, Q, P + Q) and its past (1, P, heads, head_dim)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(  # the tensors that a layer reads
        self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, past_key: Tensor, past_value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """hidden, and the new key and value (1, Q, heads, head_dim)."""
        cache = Joined(past_key, past_value)
        out = self.layer(hidden, attention_mask=mask, position_embeddings=(cos, sin), past_key_values=cache)
        assert cache.new is not None
        key, value = cache.new
        return out, key.transpose(1, 2), value.transpose(1, 2)


class Head(nn.Module):
    """hidden (1, Q, H), index (1,) -> logits (1, V) of that one token."""

    def __init__(self, norm: nn.Module, head: nn.Module, softcap: float | None) -> None:
        super().__init__()
        self.norm, self.head, self._softcap = norm, head, softcap

    def forward(self, hidden: Tensor, index: Tensor) -> Tensor:
        """The logits, squashed where the model squashes them."""
        chosen = torch.index_select(hidden, 1, index).squeeze(1)
        logits: Tensor = self.head(self.norm(chosen))
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits


@dataclass(frozen=True)
class Language:
    """A decoder of the library, with what the stage needs to know of it.

    Attributes:
        model: with `layers`, `norm` and `rotary_emb`.
        head: the last linear map.
        softcap: of the logits; None where there is none.
        kinds: of each layer, which attention it has: keys of MASKS.
        longest: tokens of one run.
    """

    model: Any
    head: nn.Module
    cache: CacheSpec
    kinds: tuple[str, ...]
    longest: int
    softcap: float | None = None

    @property
    def masks(self) -> tuple[str, ...]:
        """The mask ports, in their order."""
        return tuple(MASKS[kind] for kind in dict.fromkeys(self.kinds))

    def pieces(self) -> list[Piece]:
        """Layers that turn their keys by the place of each token."""
        found = [Piece("angles", "angles", Angles(self.model.rotary_emb), ("positions",), ("cos", "sin"))]
        hidden = "embeds"
        for i, (layer, kind) in enumerate(zip(self.model.layers, self.kinds, strict=True)):
            reads = (hidden, "cos", "sin", MASKS[kind], f"past_key_{i}", f"past_value_{i}")
            hidden = f"hidden_{i}"
            found.append(Piece(f"layer_{i}", kind, Layer(layer), reads, (hidden, f"new_key_{i}", f"new_value_{i}")))
        head = Head(self.model.norm, self.head, self.softcap)
        found.append(Piece("head", "head", head, (hidden, "index"), ("logits",)))
        return found


def decoder_stage(language: Language) -> Stage:
    """The stage `decoder`; see `edgevlm.manifest.schema.DecoderArgs` for its ports."""
    config = language.model.config
    sizes = Sizes(language.cache, config.hidden_size, config.vocab_size, language.longest)
    return cached_stage(language.pieces(), sizes, language.masks)


@dataclass(frozen=True)
class Sizes:
    """How large the tensors of a stage `decoder` are.

    Attributes:
        width: of the vectors it reads.
        words: that it may say.
        longest: tokens of one run.
    """

    cache: CacheSpec
    width: int
    words: int
    longest: int


def cached_stage(
    pieces: Sequence[Piece],
    sizes: Sizes,
    masks: Sequence[str],
    looked_at: Sequence[Port] = (),
    lengths: Mapping[str, tuple[int, int, int]] | None = None,
) -> Stage:
    """The stage `decoder` of any loop; see `edgevlm.manifest.drivers.KVDecoderSpec` for its ports.

    Args:
        looked_at: inputs besides, such as the keys and values of a picture.
        lengths: symbol -> (min, opt, max), of the dimensions that only those have.
    """
    inputs, outputs = _ports(sizes, masks, looked_at)
    more = {name: (7 + i, 11 + i) for i, name in enumerate(lengths or {})}
    examples = tuple(
        _example(inputs, {QUERY: query, PAST: past, KEYS: query + past, **{name: two[i] for name, two in more.items()}})
        for i, (query, past) in enumerate(EXAMPLES)
    )
    chain = Chain(pieces, _names(inputs), _names(outputs), (examples[0], examples[1]))
    query = (1, min(CHUNK, sizes.longest), sizes.longest)
    past = (sizes.cache.step, max(sizes.cache.step, sizes.cache.slots // 2), sizes.cache.slots)
    keys = (query[0] + past[0], query[1] + past[1], query[2] + past[2])
    return Stage(
        name="decoder",
        module=chain.eval(),
        inputs=inputs,
        outputs=outputs,
        example=examples[1],
        dynamic={QUERY: query, PAST: past, KEYS: keys, **(lengths or {})},
    )


def _ports(sizes: Sizes, masks: Sequence[str], looked_at: Sequence[Port]) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    slot = (sizes.cache.heads, sizes.cache.head_dim)
    inputs = [
        Port(name="embeds", dtype="float32", shape=(1, QUERY, sizes.width), kind="embeds"),
        Port(name="positions", dtype="int64", shape=(1, QUERY), kind="positions"),
        *(Port(name=name, dtype="float32", shape=(1, 1, QUERY, KEYS), kind="mask") for name in masks),
        Port(name="index", dtype="int64", shape=(1,), kind="index"),
    ]
    outputs = [Port(name="logits", dtype="float32", shape=(1, sizes.words), kind="logits")]
    for i in range(sizes.cache.layers):
        inputs += [
            Port(name=f"past_key_{i}", dtype="float32", shape=(1, PAST, *slot), kind="past_key"),
            Port(name=f"past_value_{i}", dtype="float32", shape=(1, PAST, *slot), kind="past_value"),
        ]
        outputs += [
            Port(name=f"new_key_{i}", dtype="float32", shape=(1, QUERY, *slot), kind="new_key"),
            Port(name=f"new_value_{i}", dtype="float32", shape=(1, QUERY, *slot), kind="new_value"),
        ]
    return (*inputs, *looked_at), tuple(outputs)


def _example(ports: Sequence[Port], sizes: Mapping[str, int]) -> tuple[Tensor, ...]:
    types = {"float32": torch.float32, "int64": torch.int64}
    return tuple(
        torch.zeros([dim if isinstance(dim, int) else sizes[dim] for dim in port.shape], dtype=types[port.dtype])
        for port in ports
    )


def _names(ports: Sequence[Port]) -> tuple[str, ...]:
    return tuple(port.name for port in ports)
