"""Action Chunking Transformer: one residual net for all cameras, a transformer over its features, a chunk of actions.

`Act` is the whole model; `ActVision` and `ActHead` are its two halves, which meet in a feature map of each camera. All
take normalised numbers. The variational encoder of the training is no part of it: in use its latent is zero.

Zhao et al. 2023, arXiv:2304.13705; tensor names and arithmetic as LeRobot's src/lerobot/policies/act/modeling_act.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCKS: Mapping[str, tuple[int, ...]] = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": functional.relu, "gelu": functional.gelu}
STRIDE = 32  # of the backbone: a map has a cell for this many pixels


@dataclass(frozen=True, kw_only=True)
class ActConfig:
    """The architecture, complete.

    Attributes:
        state_size: numbers in the state; 0 where the model takes none.
    """

    backbone: str
    width: int
    heads: int
    hidden: int
    activation: str
    encoder_layers: int
    decoder_layers: int
    pre_norm: bool
    latent: int
    chunk_steps: int
    state_size: int
    action_size: int


def map_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the feature map of a picture."""
    return -(-height // STRIDE), -(-width // STRIDE)


class Block(nn.Module):
    """Two convolutions around a short cut (He et al. 2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(maps)))))
        return functional.relu(inner + self.downsample(maps))


class Backbone(nn.Module):
    """pixels (1, 3, H, W) -> maps (1, 512, H/32, W/32)."""

    def __init__(self, blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False), nn.BatchNorm2d(WIDTHS[0])
        inputs = WIDTHS[0]
        for stage, (count, width) in enumerate(zip(blocks, WIDTHS, strict=True)):
            steps = [Block(inputs if i == 0 else width, width, 2 if i == 0 and stage else 1) for i in range(count)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*steps))
            inputs = width

    def forward(self, pixels: Tensor) -> Tensor:
        maps = functional.max_pool2d(functional.relu(self.bn1(self.conv1(pixels))), 3, 2, 1)
        for stage in range(len(WIDTHS)):
            maps = self.get_submodule(f"layer{stage + 1}")(maps)
        return maps


class Attention(nn.Module):
    """Queries (1, Q, D) over keys and values (1, K, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        count, wanted, width = query.shape
        parts = [
            project(given).reshape(count, -1, self.heads, width // self.heads).transpose(1, 2)
            for project, given in ((self.query, query), (self.key, key), (self.value, value))
        ]
        scores = parts[0] @ parts[1].transpose(-1, -2) * (width // self.heads) ** -0.5
        mixed = functional.softmax(scores, -1) @ parts[2]
        result: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(count, wanted, width))
        return result


class EncoderLayer(nn.Module):
    """Attention and a dense net over tokens (1, N, D); places are added to queries and keys, not to values."""

    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config.width, config.heads)
        self.linear1, self.linear2 = nn.Linear(config.width, config.hidden), nn.Linear(config.hidden, config.width)
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.activation, self.pre_norm = ACTIVATIONS[config.activation], config.pre_norm

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        given = self.norm1(tokens) if self.pre_norm else tokens
        placed = given + places
        tokens = tokens + self.self_attn(placed, placed, given)
        tokens = tokens if self.pre_norm else self.norm1(tokens)
        given = self.norm2(tokens) if self.pre_norm else tokens
        tokens = tokens + self.linear2(self.activation(self.linear1(given)))
        return tokens if self.pre_norm else self.norm2(tokens)


class DecoderLayer(nn.Module):
    """Rows of the chunk (1, K, D) look at each other, then at the encoder's tokens."""

    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config.width, config.heads)
        self.multihead_attn = Attention(config.width, config.heads)
        self.linear1, self.linear2 = nn.Linear(config.width, config.hidden), nn.Linear(config.hidden, config.width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(config.width) for _ in range(3))
        self.activation, self.pre_norm = ACTIVATIONS[config.activation], config.pre_norm

    def among(self, rows: Tensor, row_places: Tensor) -> Tensor:
        """The first half, which knows nothing of the encoder."""
        given = self.norm1(rows) if self.pre_norm else rows
        placed = given + row_places
        rows = rows + self.self_attn(placed, placed, given)
        return rows if self.pre_norm else self.norm1(rows)

    def across(self, rows: Tensor, row_places: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        """The second half."""
        given = self.norm2(rows) if self.pre_norm else rows
        rows = rows + self.multihead_attn(given + row_places, tokens + places, tokens)
        rows = rows if self.pre_norm else self.norm2(rows)
        given = self.norm3(rows) if self.pre_norm else rows
        rows = rows + self.linear2(self.activation(self.linear1(given)))
        return rows if self.pre_norm else self.norm3(rows)

    def forward(self, rows: Tensor, row_places: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        return self.across(self.among(rows, row_places), row_places, tokens, places)


class Stack(nn.Module):
    """Layers and the norm behind them."""

    def __init__(self, layers: Sequence[nn.Module], norm: nn.Module) -> None:
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), norm


class Act(nn.Module):
    """The whole model: `forward` is one pass over pictures and state, with nothing computed beforehand."""

    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.backbone = Backbone(BLOCKS[config.backbone])
        layers = [EncoderLayer(config) for _ in range(config.encoder_layers)]
        self.encoder = Stack(layers, nn.LayerNorm(width) if config.pre_norm else nn.Identity())
        self.decoder = Stack([DecoderLayer(config) for _ in range(config.decoder_layers)], nn.LayerNorm(width))
        if config.state_size:
            self.encoder_robot_state_input_proj = nn.Linear(config.state_size, width)
        self.encoder_latent_input_proj = nn.Linear(config.latent, width)
        self.encoder_img_feat_input_proj = nn.Conv2d(WIDTHS[-1], width, 1)
        self.encoder_1d_feature_pos_embed = nn.Embedding(2 if config.state_size else 1, width)
        self.decoder_pos_embed = nn.Embedding(config.chunk_steps, width)
        self.action_head = nn.Linear(width, config.action_size)

    def forward(self, pixels: Sequence[Tensor], state: Tensor | None) -> Tensor:
        """Pixels (1, 3, H, W) of each camera and state (1, S) -> chunk (1, K, A)."""
        tokens = [self.encoder_latent_input_proj(torch.zeros(1, self.config.latent))]
        if state is not None:
            tokens.append(self.encoder_robot_state_input_proj(state))
        sequence, places = [torch.stack(tokens, 1)], [self.encoder_1d_feature_pos_embed.weight[None]]
        for one in pixels:
            maps = self.encoder_img_feat_input_proj(self.backbone(one))
            sequence.append(maps.flatten(2).transpose(1, 2))
            places.append(sine_places(self.config.width, *maps.shape[2:]))
        seen, where = torch.cat(sequence, 1), torch.cat(places, 1)
        for layer in self.encoder.layers:
            seen = layer(seen, where)
        seen = self.encoder.norm(seen)
        row_places = self.decoder_pos_embed.weight[None]
        rows = torch.zeros_like(row_places)
        for layer in self.decoder.layers:
            rows = layer(rows, row_places, seen, where)
        chunk: Tensor = self.action_head(self.decoder.norm(rows))
        return chunk


class ActVision(nn.Module):
    """pixels (1, 3, H, W) -> features (1, D, h, w): what the transformer reads of one frame."""

    def __init__(self, model: Act) -> None:
        super().__init__()
        self.backbone, self.project = model.backbone, model.encoder_img_feat_input_proj

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.project(self.backbone(pixels))
        return features


class ActHead(nn.Module):
    """[state (1, S),] features (1, D, h, w) of each camera -> chunk (1, K, A).

    What depends on no input is computed once: the token of the zero latent, every place, and what the rows of the chunk
    see of each other before they look at the pictures.
    """

    def __init__(self, model: Act, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.encoder, self.decoder, self.action_head = model.encoder, model.decoder, model.action_head
        self.state_proj = model.encoder_robot_state_input_proj if model.config.state_size else None
        latent, where, row_places, rows = _constants(model, sizes)
        self.latent: Tensor
        self.places: Tensor
        self.row_places: Tensor
        self.rows: Tensor
        for name, value in (("latent", latent), ("places", where), ("row_places", row_places), ("rows", rows)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, *given: Tensor) -> Tensor:
        tokens, maps = [self.latent], list(given)
        if self.state_proj is not None:
            tokens.append(self.state_proj(maps.pop(0))[:, None])
        seen = torch.cat([*tokens, *(one.flatten(2).transpose(1, 2) for one in maps)], 1)
        for layer in self.encoder.layers:
            seen = layer(seen, self.places)
        seen = self.encoder.norm(seen)
        rows = self.rows
        for index, layer in enumerate(self.decoder.layers):
            assert isinstance(layer, DecoderLayer)
            rows = layer.among(rows, self.row_places) if index else rows
            rows = layer.across(rows, self.row_places, seen, self.places)
        chunk: Tensor = self.action_head(self.decoder.norm(rows)[0])[None]  # of two axes, so its weight keeps its name
        return chunk


def _constants(model: Act, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The latent's token (1, 1, D), every place (1, N, D), those of the rows (1, K, D), the rows (1, K, D)."""
    with torch.no_grad():
        latent = model.encoder_latent_input_proj(torch.zeros(1, 1, model.config.latent))
        first = model.encoder_1d_feature_pos_embed.weight[None]
        where = torch.cat([first, *(sine_places(model.config.width, *size) for size in sizes)], 1)
        row_places = model.decoder_pos_embed.weight[None].clone()
        layer = model.decoder.layers[0]
        assert isinstance(layer, DecoderLayer)
        return latent, where, row_places, layer.among(torch.zeros_like(row_places), row_places)


def sine_places(width: int, rows: int, columns: int) -> Tensor:
    """(1, rows * columns, width): waves over the picture, first down, then across (`ACTSinusoidalPositionEmbedding2d`).

    Cells count from 1, and the last one is at two pi.
    """
    half = width // 2
    waves = 10000 ** (2 * (torch.arange(half, dtype=torch.float32) // 2) / half)
    parts = []
    for size, shape in ((rows, (rows, 1)), (columns, (1, columns))):
        steps = torch.arange(1, size + 1, dtype=torch.float32)
        angles = (steps / (steps[-1] + 1e-6) * (2 * math.pi))[:, None] / waves  # (size, half)
        waved = torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], -1).flatten(1)
        parts.append(waved.reshape(*shape, half).expand(rows, columns, half))
    return torch.cat(parts, -1).reshape(1, rows * columns, width)


def own_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LeRobot's tensors under the names of `Act`: without `model.`, each joint input projection cut in three."""
    found: dict[str, Tensor] = {}
    for full, value in weights.items():
        name = full.removeprefix("model.")
        stem, _, kind = name.rpartition("in_proj_")
        names = [f"{stem}{part}.{kind}" for part in ("query", "key", "value")] if stem else [name]
        for own, part in zip(names, value.chunk(3) if stem else (value,), strict=True):
            if own in found:
                raise ValueError(f"{full!r} is there twice, under two names")
            found[own] = part
    return found
