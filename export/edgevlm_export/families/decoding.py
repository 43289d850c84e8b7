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

from edgevlm.loops import CacheSpec
from edgevlm.manifest import Port
from edgevlm_export.pieces import Chain, Piece
from edgevlm_export.stage_graph import Stage

STEP = 64  # slots: an engine meets a context of 2048 in 32 shapes
CHUNK = 256  # tokens of one run of the prompt
EXAMPLES = ((3, 4), (5, 8))  # (query, past) of the two traced sizes: no two of these numbers may be equal by chance
MASKS = {"full_attention": "mask", "sliding_attention": "sliding_mask"}


class _Joined:
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
        cache = _Joined(past_key, past_value)
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


def decoder_stage(language: Language) -> Stage:
    """The stage `decoder`; see `edgevlm.manifest.DecoderArgs` for its ports."""
    config = language.model.config
    inputs, outputs = _ports(language, config.hidden_size, config.vocab_size)
    examples = tuple(_example(inputs, query, past) for query, past in EXAMPLES)
    chain = Chain(_pieces(language), _names(inputs), _names(outputs), (examples[0], examples[1]))
    query = (1, min(CHUNK, language.longest), language.longest)
    past = (language.cache.step, max(language.cache.step, language.cache.slots // 2), language.cache.slots)
    return Stage(
        name="decoder",
        module=chain.eval(),
        inputs=inputs,
        outputs=outputs,
        example=examples[1],
        dynamic={"query": query, "past": past, "keys": tuple(q + p for q, p in zip(query, past, strict=True))},  # type: ignore[dict-item]
    )


def _pieces(language: Language) -> list[Piece]:
    found = [Piece("angles", "angles", Angles(language.model.rotary_emb), ("positions",), ("cos", "sin"))]
    hidden = "embeds"
    for i, (layer, kind) in enumerate(zip(language.model.layers, language.kinds, strict=True)):
        reads = (hidden, "cos", "sin", MASKS[kind], f"past_key_{i}", f"past_value_{i}")
        hidden = f"hidden_{i}"
        found.append(Piece(f"layer_{i}", kind, Layer(layer), reads, (hidden, f"new_key_{i}", f"new_value_{i}")))
    head = Head(language.model.norm, language.head, language.softcap)
    found.append(Piece("head", "head", head, (hidden, "index"), ("logits",)))
    return found


def _ports(language: Language, width: int, words: int) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    cache = language.cache
    slot = (cache.heads, cache.head_dim)
    inputs = [
        Port(name="embeds", dtype="float32", shape=(1, "query", width), kind="embeds"),
        Port(name="positions", dtype="int64", shape=(1, "query"), kind="positions"),
        *(Port(name=name, dtype="float32", shape=(1, 1, "query", "keys"), kind="mask") for name in language.masks),
        Port(name="index", dtype="int64", shape=(1,), kind="index"),
    ]
    outputs = [Port(name="logits", dtype="float32", shape=(1, words), kind="logits")]
    for i in range(cache.layers):
        inputs += [
            Port(name=f"past_key_{i}", dtype="float32", shape=(1, "past", *slot), kind="past_key"),
            Port(name=f"past_value_{i}", dtype="float32", shape=(1, "past", *slot), kind="past_value"),
        ]
        outputs += [
            Port(name=f"new_key_{i}", dtype="float32", shape=(1, "query", *slot), kind="new_key"),
            Port(name=f"new_value_{i}", dtype="float32", shape=(1, "query", *slot), kind="new_value"),
        ]
    return tuple(inputs), tuple(outputs)


def _example(ports: Sequence[Port], query: int, past: int) -> tuple[Tensor, ...]:
    sizes: Mapping[str, int] = {"query": query, "past": past, "keys": query + past}
    types = {"float32": torch.float32, "int64": torch.int64}
    return tuple(
        torch.zeros([dim if isinstance(dim, int) else sizes[dim] for dim in port.shape], dtype=types[port.dtype])
        for port in ports
    )


def _names(ports: Sequence[Port]) -> tuple[str, ...]:
    return tuple(port.name for port in ports)
