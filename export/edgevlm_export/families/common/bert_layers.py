"""The last layer of a BERT, for one token alone: a head that reads one place needs no other of that layer."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

# Activations that are one function of one number, and so nothing for the adapters to care about.
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu")


def looks_at_all(layer: Any, states: Tensor, wanted: Tensor) -> Tensor:
    """`wanted` (1, Q, H), some of the states (1, N, H), after it looked at all of them.

    Equal to those rows of upstream's `layer.attention(states)`.
    """
    block = layer.attention
    query = _heads(block.self, block.self.query(wanted))
    key, value = _heads(block.self, block.self.key(states)), _heads(block.self, block.self.value(states))
    scores = query @ key.transpose(2, 3) / math.sqrt(block.self.attention_head_size)
    seen = (scores.softmax(dim=-1) @ value).transpose(1, 2)
    return block.output(seen.reshape(1, wanted.shape[1], -1), wanted)  # type: ignore[no-any-return]


def forward(layer: Any, seen: Tensor) -> Tensor:
    """What follows the attention of a layer: (1, N, H) -> (1, N, H)."""
    return layer.output(layer.intermediate(seen), seen)  # type: ignore[no-any-return]


def _heads(attention: Any, projected: Tensor) -> Tensor:
    """(1, heads, N, D)."""
    return projected.view(1, -1, attention.num_attention_heads, attention.attention_head_size).transpose(1, 2)
