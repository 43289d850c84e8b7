"""SmolVLA cut into what is computed once for an observation and what is computed in every step, as chains of pieces.

Nothing here depends on a value: positions that do (the state's, the chunk's) are looked up in tables by the number of
words, and masks are added. Keys and values lie as (1, P, heads, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgevlm_export.models.smolvla import SmolVla, across, angles, finish, heads, project, rotate
from edgevlm_export.tracing.repeated_layers import Chain, Piece

HIDDEN = -30000.0  # added to scores that do not count; twice as much is still a number in fp16


class Thin(nn.Module):
    """A linear map by a matrix of its own name, which lets an export leave it in floats: a robot's numbers go through.

    `columns` keeps the first ones of what goes in.
    """

    def __init__(self, linear: Any, columns: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight[:, :columns].T.contiguous(), requires_grad=False)
        self.bias = nn.Parameter(linear.bias, requires_grad=False)

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ self.weight + self.bias


class PrefixEnter(nn.Module):
    """features of each camera, embeds (1, L, H), mask (1, L), state -> tokens (1, P, H), angles, mask (1, 1, P, P)."""

    before: Tensor | None
    after: Tensor | None
    cos: Tensor
    sin: Tensor
    order: Tensor

    def __init__(self, model: SmolVla, seen: Sequence[int], words: int, state: int) -> None:
        super().__init__()
        config = model.config
        self.cameras, self.scale = len(seen), float(config.text.hidden_size**0.5)
        around = len(config.before) + len(config.after)
        self.pictures = sum(seen) + around * (len(seen) + config.empty)
        self.register_buffer("before", model.special(config.before) if around else None)
        self.register_buffer("after", model.special(config.after) if around else None)
        self.empty, self.state_proj = config.empty, Thin(model.state_proj, state)
        tokens = self.pictures + words + 1
        cos, sin = angles(torch.arange(tokens)[None], config.text.head_dim)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        order = torch.zeros(1, 1, tokens, tokens)
        order[..., :-1, -1] = HIDDEN  # the state sees all, and only itself sees it
        self.register_buffer("order", order)

    def forward(self, *given: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        *features, embeds, mask, state = given
        before = [] if self.before is None else [self.before]
        after = [] if self.after is None else [self.after]
        parts: list[Tensor] = []
        for one in features:
            parts += [*before, one, *after]
        parts += [*before, *after] * self.empty
        parts += [embeds * self.scale, self.state_proj(state)[:, None]]
        place = mask.sum(1).to(torch.int64) + self.pictures
        cos, sin = (torch.cat([one[:, :-1], one.index_select(1, place)], 1) for one in (self.cos, self.sin))
        shown = torch.cat([torch.ones(1, self.pictures), mask, torch.ones(1, 1)], 1)
        return torch.cat(parts, 1), cos, sin, self.order + ((shown - 1) * -HIDDEN)[:, None, None]


class PrefixLayer(nn.Module):
    """One layer of the language model: tokens, and the key and value that the expert will look at."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, tokens: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = project(self.layer, self.layer.input_layernorm(tokens))
        key = rotate(key, cos, sin)
        attended = mix(rotate(query, cos, sin), key, value, mask)
        return finish(self.layer, tokens, attended), key, value


class LastKeys(nn.Module):
    """The last layer of the language model, of which nothing else is read."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.input_layernorm, attention = layer.input_layernorm, layer.self_attn
        self.k_proj, self.v_proj, self.head_dim = attention.k_proj, attention.v_proj, attention.head_dim

    def forward(self, tokens: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        given = self.input_layernorm(tokens)
        key, value = (one(given).reshape(1, given.shape[1], -1, self.head_dim) for one in (self.k_proj, self.v_proj))
        return rotate(key, cos, sin), value


class Across(nn.Module):
    """A key and a value of the prefix, as a layer of the expert that looks across reads them."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.self_attn = _Keys(layer.self_attn)

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return across(self, key, value)


class _Keys(nn.Module):
    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.k_proj, self.v_proj, self.head_dim = attention.k_proj, attention.v_proj, attention.head_dim


class StepEnter(nn.Module):
    """sample, time, mask -> rows (1, K, W), angles behind the prefix, masks (1, 1, K, P + K) and (1, 1, 1, P)."""

    cos: Tensor
    sin: Tensor
    order: Tensor

    def __init__(self, model: SmolVla, pictures: int, words: int) -> None:
        super().__init__()
        self.action_in_proj = Thin(model.action_in_proj)
        self.action_time_mlp_in, self.action_time_mlp_out = model.action_time_mlp_in, model.action_time_mlp_out
        self.pictures, self.rows = pictures, model.config.chunk_steps
        cos, sin = angles(torch.arange(words + 1 + self.rows)[None] + pictures, model.config.text.head_dim)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        self.register_buffer("order", torch.full((1, 1, self.rows, self.rows), HIDDEN).triu(1))

    def forward(self, sample: Tensor, time: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        rows = self.action_in_proj(sample)
        both = torch.cat([rows, time[:, None].expand(-1, self.rows, -1)], 2)
        rows = self.action_time_mlp_out(functional.silu(self.action_time_mlp_in(both)))
        places = mask.sum(1).to(torch.int64) + torch.arange(1, self.rows + 1)
        shown = torch.cat([torch.ones(1, self.pictures), mask, torch.ones(1, 1)], 1)
        looked = ((shown - 1) * -HIDDEN)[:, None, None]
        seen = torch.cat([looked.expand(-1, -1, self.rows, -1), self.order], 3)
        return rows, self.cos.index_select(1, places), self.sin.index_select(1, places), seen, looked


class SelfLayer(nn.Module):
    """A layer of the expert whose rows see the prefix and the rows before them."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, rows: Tensor, cos: Tensor, sin: Tensor, seen: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, own_key, own_value = project(self.layer, self.layer.input_layernorm(rows))
        key = torch.cat([key, rotate(own_key, cos, sin)], 1)
        attended = mix(rotate(query, cos, sin), key, torch.cat([value, own_value], 1), seen)
        return finish(self.layer, rows, attended)


class CrossLayer(nn.Module):
    """A layer of the expert whose rows see the prefix alone; they are counted from 0."""

    cos: Tensor
    sin: Tensor

    def __init__(self, layer: Any, rows: int) -> None:
        super().__init__()
        attention = layer.self_attn
        self.input_layernorm, self.mlp = layer.input_layernorm, layer.mlp
        self.post_attention_layernorm = layer.post_attention_layernorm
        self.self_attn: Any = nn.Module()
        self.self_attn.q_proj, self.self_attn.o_proj = attention.q_proj, attention.o_proj
        self.self_attn.head_dim = attention.head_dim
        cos, sin = angles(torch.arange(rows)[None], attention.head_dim)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, rows: Tensor, looked: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query = heads(self, self.self_attn.q_proj(self.input_layernorm(rows)))
        return finish(self, rows, mix(rotate(query, self.cos, self.sin), key, value, looked))


class StepLeave(nn.Module):
    """rows -> velocity (1, K, A)."""

    def __init__(self, model: SmolVla) -> None:
        super().__init__()
        self.norm, self.action_out_proj = model.expert.norm, Thin(model.action_out_proj)

    def forward(self, rows: Tensor) -> Tensor:
        velocity: Tensor = self.action_out_proj(self.norm(rows))
        return velocity


def mix(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """(1, N, heads * D); `mask` (1, 1, N or 1, M) is added. Heads that share a key are rows of one product."""
    count, shared, size = query.shape[1], key.shape[2], query.shape[3]
    times = query.shape[2] // shared
    rows = query.reshape(1, count, shared, times, size).permute(0, 2, 3, 1, 4).reshape(1, shared, times * count, size)
    scores = (rows * size**-0.5) @ key.permute(0, 2, 3, 1)
    scores = scores.reshape(1, shared, times, count, -1) + mask[:, :, None]
    shares = functional.softmax(scores, -1).reshape(1, shared, times * count, -1)
    mixed = (shares @ value.permute(0, 2, 1, 3)).reshape(1, shared, times, count, size)
    return mixed.permute(0, 3, 1, 2, 4).reshape(1, count, -1)


def prefix_chain(model: SmolVla, enter: PrefixEnter, inputs: tuple[str, ...], example: tuple[Tensor, ...]) -> Chain:
    """`inputs` -> cross_key_i and cross_value_i of each layer of the expert."""
    config = model.config
    pieces = [Piece("enter", "enter", enter, inputs, ("tokens", "cos", "sin", "mask_of_tokens"))]
    tokens = "tokens"
    made: list[str] = []
    last = max(i for i in range(config.layers) if config.expert_of(i) is not None)  # nobody reads what comes after it
    for i, layer in enumerate(model.vlm.text_model.layers[: last + 1]):
        beside = config.expert_of(i)
        out = () if beside is None else (f"cross_key_{beside}", f"cross_value_{beside}")
        looked_across = beside is not None and config.attends_across(i)
        own = out if out and not looked_across else (f"key_{i}", f"value_{i}")
        reads = (tokens, "cos", "sin", "mask_of_tokens")
        if i == last:
            pieces.append(Piece(f"layer_{i}", "last", LastKeys(layer), reads[:3], own))
        else:
            tokens = f"tokens_{i}"
            pieces.append(Piece(f"layer_{i}", "layer", PrefixLayer(layer), reads, (tokens, *own)))
        if looked_across:
            pieces.append(Piece(f"across_{i}", "across", Across(model.expert_layer(i)), own, out))
        made += out
    return Chain(pieces, inputs, tuple(made), (example, example)).eval()


def step_chain(model: SmolVla, enter: StepEnter, inputs: tuple[str, ...], example: tuple[Tensor, ...]) -> Chain:
    """sample, time, mask, then cross_key_i and cross_value_i -> velocity."""
    config = model.config
    pieces = [Piece("enter", "enter", enter, inputs[:3], ("rows", "cos", "sin", "seen", "looked"))]
    rows = "rows"
    for i in range(config.layers):
        beside, layer = config.expert_of(i), model.expert_layer(i)
        if beside is None:
            continue
        looks_at, out = (f"cross_key_{beside}", f"cross_value_{beside}"), f"rows_{beside}"
        if config.attends_across(i):
            module: nn.Module = CrossLayer(layer, config.chunk_steps)
            pieces.append(Piece(f"layer_{beside}", "across", module, (rows, "looked", *looks_at), (out,)))
        else:
            reads = (rows, "cos", "sin", "seen", *looks_at)
            pieces.append(Piece(f"layer_{beside}", "self", SelfLayer(layer), reads, (out,)))
        rows = out
    pieces.append(Piece("leave", "leave", StepLeave(model), (rows,), ("velocity",)))
    return Chain(pieces, inputs, ("velocity",), (example, example)).eval()
