"""SmolVLA: a small vision-language model reads the observation, an expert makes a chunk of actions out of noise.

`SmolVla` is the whole model, as the original runs it; it judges the stages of smolvla_stages.py and shares with them
what has weights. Both parts are layers of one kind, and look at each other: in layers that attend to themselves, the
expert's rows see the prefix and the rows before them; in those that attend across, the prefix alone, whose keys and
values are projected once more. The final norm of the language model, and its last layer's output, are never used.

Shukor et al. 2025, arXiv:2506.01844; tensor names and arithmetic as LeRobot's modeling_smolvla.py and
smolvlm_with_expert.py (src/lerobot/policies/smolvla).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgevlm.errors import require

ROTARY_BASE = 10_000.0  # its own, whatever the language model's config says
EMBEDDING = "vlm.text_model.embed_tokens.weight"
PREFIXES = {"vlm_with_expert.vlm.model.": "vlm.", "vlm_with_expert.lm_expert.": "expert."}
HEAD = "vlm_with_expert.vlm.lm_head.weight"  # of the language model: no part of the policy

Cached = Sequence[tuple[Tensor, Tensor]]  # of each layer: key and value, (1, P, heads, D)


@dataclass(frozen=True, kw_only=True)
class SmolVlaConfig:
    """The architecture, complete.

    Attributes:
        vlm: the vision-language model's config, as `transformers` reads it.
        layers: how many of its layers are used.
        expert_layers: as many, or a divisor of that.
        across: whether the expert's layers attend across at all.
        self_every: then one in so many attends to itself; 0 for none.
        before, after: ids of the tokens around each picture; empty where there are none.
        empty: cameras that are not there, of which only the tokens around the picture are.
        periods: shortest and longest, of the sines that tell the time.
    """

    vlm: Any
    layers: int
    expert_layers: int
    across: bool
    self_every: int
    expert_width: float
    state_columns: int
    action_columns: int
    chunk_steps: int
    steps: int
    periods: tuple[float, float]
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    empty: int = 0

    @property
    def text(self) -> Any:
        """The language model's config."""
        return self.vlm.text_config

    @property
    def expert(self) -> Any:
        """The expert's: the language model's, with another width."""
        config = copy.deepcopy(self.text)
        config.hidden_size = int(self.text.hidden_size * self.expert_width)
        wide = 4 * int(2 * config.hidden_size / 3)
        config.intermediate_size = 256 * ((wide + 255) // 256)
        config.num_hidden_layers = self.expert_layers
        return config

    def expert_of(self, layer: int) -> int | None:
        """Which of the expert's layers is beside this one of the language model."""
        stride = self.layers // self.expert_layers
        return None if layer % stride else layer // stride

    def attends_across(self, layer: int) -> bool:
        """Whether the expert looks at the prefix alone here; `layer` counts those of the language model."""
        return self.across and not (self.self_every > 0 and layer % self.self_every == 0)


def own_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LeRobot's tensors under the names that `SmolVla` has, in float32.

    The words' vectors may be stored as those of the language model's last map, with which they are shared.
    """
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        own = name.replace("_orig_mod.", "").removeprefix("model.")
        if own == HEAD:
            continue
        for theirs, ours in PREFIXES.items():
            if own.startswith(theirs):
                own = ours + own.removeprefix(theirs)
        if own in found:
            raise ValueError(f"{name!r} is there twice, under two names")
        found[own] = value.float()
    head = next((value for name, value in weights.items() if name.endswith(HEAD)), None)
    if EMBEDDING not in found and head is not None:
        found[EMBEDDING] = head.float()
    return found


class SmolVla(nn.Module):
    """pixels of each camera (1, 3, S, S), ids and mask (1, L), state (1, n), noise (1, K, A) -> chunk (1, K, A).

    Everything is normalised. Made without memory for its weights: `load_state_dict(..., assign=True)` brings them.
    """

    def __init__(self, config: SmolVlaConfig) -> None:
        super().__init__()
        library = require("transformers", extra="export")
        self.config = config
        vlm = copy.deepcopy(config.vlm)
        vlm.text_config.num_hidden_layers = config.layers
        expert, text = config.expert, config.text
        with torch.device("meta"):
            self.vlm = library.SmolVLMModel._from_config(vlm, attn_implementation="eager")
            self.expert = library.LlamaModel._from_config(expert, attn_implementation="eager")
            self.expert.embed_tokens = None
            sizes = text.num_key_value_heads * text.head_dim
            for place, layer in enumerate(self.expert.layers):
                if config.attends_across(place):
                    for name in ("k_proj", "v_proj"):
                        setattr(layer.self_attn, name, nn.Linear(sizes, sizes, bias=expert.attention_bias))
            self.state_proj = nn.Linear(config.state_columns, text.hidden_size)
            self.action_in_proj = nn.Linear(config.action_columns, expert.hidden_size)
            self.action_out_proj = nn.Linear(expert.hidden_size, config.action_columns)
            self.action_time_mlp_in = nn.Linear(2 * expert.hidden_size, expert.hidden_size)
            self.action_time_mlp_out = nn.Linear(expert.hidden_size, expert.hidden_size)

    def expert_layer(self, layer: int) -> Any:
        """The expert's layer beside this one of the language model, or null."""
        place = self.config.expert_of(layer)
        return None if place is None else self.expert.layers[place]

    def special(self, ids: Sequence[int]) -> Tensor:
        """Vectors (1, n, H) of tokens around a picture, which are not scaled."""
        vectors: Tensor = self.vlm.text_model.embed_tokens(torch.tensor([list(ids)], dtype=torch.long))
        return vectors

    def forward(self, pictures: Sequence[Tensor], ids: Tensor, mask: Tensor, state: Tensor, noise: Tensor) -> Tensor:
        """The whole loop, with every mask and position found anew, as the original does it."""
        tokens, there, ordered = self._prefix(pictures, ids, mask, state)
        seen = (ordered[:, None, :] <= ordered[:, :, None]) & there[:, None, :] & there[:, :, None]
        places = torch.cumsum(there, 1) - 1
        cached: list[tuple[Tensor, Tensor]] = []
        for layer in self.vlm.text_model.layers:
            query, key, value = project(layer, layer.input_layernorm(tokens))
            key = turned(key, places)
            cached.append((key, value))
            tokens = finish(layer, tokens, attend(turned(query, places), key, value, seen))
        sample, stride = noise, -1.0 / self.config.steps
        for step in range(self.config.steps):
            time = torch.tensor([1.0 + step * stride], dtype=torch.float32)
            sample = sample + stride * self._velocity(sample, time, there, cached)
        return sample

    def _prefix(
        self, pictures: Sequence[Tensor], ids: Tensor, mask: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens (1, P, H), which are there, and block of each: tokens see those of no later block)."""
        parts: list[Tensor] = []
        for pixels in pictures:
            features = self.vlm.connector(self.vlm.vision_model(pixel_values=pixels).last_hidden_state)
            parts += [self.special(self.config.before), features * features.shape[-1] ** 0.5]
            parts.append(self.special(self.config.after))
        parts += [self.special((*self.config.before, *self.config.after))] * self.config.empty
        seen = sum(part.shape[1] for part in parts)
        words = self.vlm.text_model.embed_tokens(ids)
        padded = functional.pad(state, (0, self.config.state_columns - state.shape[1]))
        parts += [words * math.sqrt(words.shape[-1]), self.state_proj(padded)[:, None]]
        there = torch.cat([torch.ones(1, seen), mask, torch.ones(1, 1)], 1) > 0.5
        block = torch.zeros_like(there, dtype=torch.long)
        block[:, -1] = 1
        return torch.cat(parts, 1), there, block

    def _velocity(self, sample: Tensor, time: Tensor, there: Tensor, cached: Cached) -> Tensor:
        count = sample.shape[1]
        told = sines(time, self.config.expert.hidden_size, self.config.periods).float()
        rows = self.enter(sample, told)
        earlier = torch.ones(1, count, count, dtype=torch.bool).tril()
        prefix = there[:, None].expand(1, count, -1)
        first = torch.arange(count)[None]
        places = first + there.sum(1)
        for place, (key, value) in enumerate(cached):
            layer = self.expert_layer(place)
            if layer is None:
                continue
            given = layer.input_layernorm(rows)
            if self.config.attends_across(place):
                query = heads(layer, layer.self_attn.q_proj(given))
                key, value = across(layer, key, value)
                attended = attend(turned(query, first), key, value, prefix)
            else:
                query, own_key, own_value = project(layer, given)
                key = torch.cat([key, turned(own_key, places)], 1)
                seen = torch.cat([prefix, earlier], 2)
                attended = attend(turned(query, places), key, torch.cat([value, own_value], 1), seen)
            rows = finish(layer, rows, attended)
        return self.leave(rows)

    def enter(self, sample: Tensor, told: Tensor) -> Tensor:
        """sample (1, K, A) and what is told of the time (1, W) -> rows (1, K, W)."""
        rows: Tensor = self.action_in_proj(sample)
        both = torch.cat([rows, told[:, None].expand(-1, rows.shape[1], -1)], 2)
        entered: Tensor = self.action_time_mlp_out(functional.silu(self.action_time_mlp_in(both)))
        return entered

    def leave(self, rows: Tensor) -> Tensor:
        """rows (1, K, W) -> velocity (1, K, A)."""
        velocity: Tensor = self.action_out_proj(self.expert.norm(rows))
        return velocity


def sines(time: Tensor, width: int, periods: tuple[float, float]) -> Tensor:
    """time (1,) -> (1, width) in float64."""
    share = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64)
    angles = time[:, None] * (1.0 / (periods[0] * (periods[1] / periods[0]) ** share) * 2 * math.pi)
    return torch.cat([torch.sin(angles), torch.cos(angles)], 1)


def heads(layer: Any, rows: Tensor) -> Tensor:
    """(1, N, heads * D) -> (1, N, heads, D)."""
    return rows.reshape(1, rows.shape[1], -1, layer.self_attn.head_dim)


def project(layer: Any, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of rows that were normalised: each (1, N, heads, D)."""
    attention = layer.self_attn
    return (
        heads(layer, attention.q_proj(rows)),
        heads(layer, attention.k_proj(rows)),
        heads(layer, attention.v_proj(rows)),
    )


def across(layer: Any, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The prefix's key and value as a layer of the expert reads them."""
    attention = layer.self_attn
    return heads(layer, attention.k_proj(key.flatten(2))), heads(layer, attention.v_proj(value.flatten(2)))


def angles(places: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (..., D / 2) of places, in float32."""
    share = (2.0 / head_dim) * torch.arange(head_dim // 2, dtype=torch.float32)
    turned_by = places[..., None].float() / ROTARY_BASE**share
    return torch.cos(turned_by), torch.sin(turned_by)


def rotate(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(1, N, heads, D) by (1, N, D / 2)."""
    first, second = rows.chunk(2, -1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def turned(rows: Tensor, places: Tensor) -> Tensor:
    """Rows (1, N, heads, D) at places (1, N)."""
    return rotate(rows, *angles(places, rows.shape[-1]))


def attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    """(1, N, heads * D); `seen` (1, N, M) is true where a row looks."""
    times = query.shape[2] // key.shape[2]
    keys, values = (one.repeat_interleave(times, 2).transpose(1, 2) for one in (key, value))
    scores = query.transpose(1, 2) @ keys.transpose(2, 3) * query.shape[-1] ** -0.5
    scores = torch.where(seen[:, None], scores, torch.finfo(torch.float32).min)
    return (functional.softmax(scores, -1) @ values).transpose(1, 2).flatten(2)


def finish(layer: Any, rows: Tensor, attended: Tensor) -> Tensor:
    """What comes after a layer's attention."""
    rows = layer.self_attn.o_proj(attended) + rows
    result: Tensor = layer.mlp(layer.post_attention_layernorm(rows)) + rows
    return result
