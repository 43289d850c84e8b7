"""A small vision-language-action model: image trunk, text encoder, temporal pooling, FiLM fusion, two heads.

The parts are pure tensor functions that only meet through their tensors, so that a runtime can cache each one's output:
`vision` sees one frame and nothing else, `text` one instruction, `pool` the window's feature maps, `head` everything at
once. All shapes are fixed by `FilmPolicyConfig`; no robot is known here. Normalisation happens outside.

FiLM: Perez et al. 2018; keypoints by spatial softmax: Levine et al. 2016.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

MODEL_TYPE = "film_policy"
_MASKED = -1e4


@dataclass(frozen=True, kw_only=True)
class CameraInput:
    """One camera as the trunk sees it; width and height are multiples of 16."""

    name: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class FilmPolicyConfig:
    """The architecture, complete: two models of one config have the same tensors.

    Attributes:
        cameras: inputs in the order of the contract.
        shared_trunk: one trunk for all cameras, or one each.
        window: frames in the temporal window.
        vocabulary, max_tokens: of the tokenizer.
        state_size: numbers in the state; 0 is not allowed.
        chunk_steps, action_size: shape of the chunk.
        waypoints, waypoint_size: shape of the plan's path; `plan_steps` names of steps.
        stem_width, map_width: channels after the first convolution and of the feature maps.
        text_width, text_layers, text_heads: of the text encoder.
        fusion_blocks, keypoints, hidden: of the head.
    """

    cameras: tuple[CameraInput, ...]
    shared_trunk: bool
    window: int
    vocabulary: int
    max_tokens: int
    state_size: int
    chunk_steps: int
    action_size: int
    waypoints: int
    waypoint_size: int
    plan_steps: int
    stem_width: int
    map_width: int
    text_width: int
    text_layers: int
    text_heads: int
    fusion_blocks: int
    keypoints: int
    hidden: int

    def __post_init__(self) -> None:
        numbers = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("cameras", "shared_trunk")}
        if bad := {key: value for key, value in numbers.items() if not isinstance(value, int) or value < 1}:
            raise ValueError(f"film_policy config: expected positive whole numbers, got {bad}")
        if not self.cameras or any(c.width % 16 or c.height % 16 for c in self.cameras):
            raise ValueError(f"film_policy config: camera width and height must be multiples of 16, got {self.cameras}")
        if self.text_width % self.text_heads:
            raise ValueError(
                f"film_policy config: text_heads {self.text_heads} must divide text_width {self.text_width}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FilmPolicyConfig:
        """From config.json's "model".

        Raises:
            ValueError: a key is unknown or missing.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if known != set(values):
            raise ValueError(
                f"film_policy config: unknown keys {sorted(set(values) - known)}, missing {sorted(known - set(values))}"
            )
        cameras = tuple(CameraInput(**camera) for camera in values["cameras"])
        return cls(**{**values, "cameras": cameras})

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` takes."""
        return dataclasses.asdict(self)


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs))


class VisionTrunk(nn.Module):
    """pixels (N, 3, H, W), normalised -> features (N, C, H/4, W/4). Sees one image and nothing else."""

    def __init__(self, config: FilmPolicyConfig) -> None:
        super().__init__()
        width = config.map_width
        self.stem = _conv(3, config.stem_width, 5, 2)
        self.down = _conv(config.stem_width, width, 3, 2)
        self.first, self.second = _conv(width, width, 3), _conv(width, width, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = functional.relu(self.down(functional.relu(self.stem(pixels))))
        residual: Tensor = self.second(functional.relu(self.first(maps)))
        return functional.relu(maps + residual)


class TextLayer(nn.Module):
    """A pre-norm transformer layer over tokens (N, L, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """`bias` (N, 1, 1, L) is 0 for words and very negative for padding."""
        count, length, width = tokens.shape
        qkv = self.qkv(self.norm_attention(tokens)).reshape(count, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (N, heads, L, d)
        scores = query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5 + bias
        mixed = (functional.softmax(scores, -1) @ value).transpose(1, 2).reshape(count, length, width)
        tokens = tokens + self.out(mixed)
        widened: Tensor = self.down(functional.relu(self.up(self.norm_mlp(tokens))))
        return tokens + widened


class TextEncoder(nn.Module):
    """ids (N, L) int64 and mask (N, L) float32, 1 for words -> text (N, D). An all-zero mask gives finite numbers."""

    def __init__(self, config: FilmPolicyConfig) -> None:
        super().__init__()
        width = config.text_width
        self.words = nn.Embedding(config.vocabulary, width)
        self.places = nn.Parameter(torch.randn(1, config.max_tokens, width) * 0.1)
        self.layers = nn.ModuleList(TextLayer(width, config.text_heads) for _ in range(config.text_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        tokens = self.words(ids) + self.places
        bias = ((1.0 - mask) * _MASKED)[:, None, None, :]
        for layer in self.layers:
            tokens = layer(tokens, bias)
        weights = mask[:, :, None]
        text: Tensor = self.norm((tokens * weights).sum(1) / weights.sum(1).clamp(min=1.0))
        return text


class TemporalPool(nn.Module):
    """Feature maps of every camera's window, oldest first, camera after camera -> one map (N, C, h, w) per camera."""

    def __init__(self, config: FilmPolicyConfig) -> None:
        super().__init__()
        self.window = config.window
        width = config.map_width
        self.mix = nn.ModuleList(_conv(config.window * width, width, 1) for _ in config.cameras)

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            functional.relu(mix(torch.cat(maps[index * self.window : (index + 1) * self.window], 1)))
            for index, mix in enumerate(self.mix)
        )


class FilmBlock(nn.Module):
    """A residual block; before it joins its input, its channels are scaled and shifted by the text."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.first, self.second = _conv(width, width, 3), _conv(width, width, 3)
        self.film = nn.Linear(text_width, 2 * width)

    def forward(self, maps: Tensor, text: Tensor) -> Tensor:
        scale, shift = self.film(text)[:, :, None, None].chunk(2, 1)
        inner = self.second(functional.relu(self.first(maps)))
        return functional.relu(maps + inner * (1.0 + scale) + shift)


class CameraFusion(nn.Module):
    """One camera's pooled map and the text -> (N, F): keypoints (x, y in [-1, 1]) and a coarse summary."""

    def __init__(self, config: FilmPolicyConfig, camera: CameraInput) -> None:
        super().__init__()
        width = config.map_width
        rows, columns = camera.height // 4, camera.width // 4
        self.blocks = nn.ModuleList(FilmBlock(width, config.text_width) for _ in range(config.fusion_blocks))
        self.heat = nn.Conv2d(width, config.keypoints, 1)
        self.squeeze, self.shrink = _conv(width, 32, 3, 2), _conv(32, 16, 3, 2)
        y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
        self.grid: Tensor
        self.register_buffer("grid", torch.stack([x.flatten(), y.flatten()], 1), persistent=False)  # (h*w, 2)
        self.features = 2 * config.keypoints + 16 * (-(-rows // 4)) * (-(-columns // 4))

    def forward(self, maps: Tensor, text: Tensor) -> Tensor:
        for block in self.blocks:
            maps = block(maps, text)
        heat = functional.softmax(self.heat(maps).flatten(2), -1)  # (N, keypoints, h*w)
        summary = functional.relu(self.shrink(functional.relu(self.squeeze(maps))))
        return torch.cat([(heat @ self.grid).flatten(1), summary.flatten(1)], 1)


class PolicyHead(nn.Module):
    """text (N, D), state (N, S) normalised, one pooled map per camera -> chunk, waypoints, step_logits.

    chunk (N, K, A), waypoints (N, P, W) and step_logits (N, steps); chunk and waypoints in normalised units.
    """

    def __init__(self, config: FilmPolicyConfig) -> None:
        super().__init__()
        self.shapes = ((config.chunk_steps, config.action_size), (config.waypoints, config.waypoint_size))
        fusion = [CameraFusion(config, camera) for camera in config.cameras]
        self.fusion = nn.ModuleList(fusion)
        seen = sum(one.features for one in fusion)
        self.trunk = nn.Sequential(
            nn.Linear(seen + config.text_width + config.state_size, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
        )
        self.chunk = nn.Linear(config.hidden, config.chunk_steps * config.action_size)
        self.path = nn.Linear(config.hidden, config.waypoints * config.waypoint_size)
        self.step = nn.Linear(config.hidden, config.plan_steps)

    def describe(self, text: Tensor, state: Tensor, *maps: Tensor) -> Tensor:
        """The joint description (N, hidden) that all heads read."""
        seen = [fusion(one, text) for fusion, one in zip(self.fusion, maps, strict=True)]
        joint: Tensor = self.trunk(torch.cat([*seen, text, state], 1))
        return joint

    def decide(self, joint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three outputs from `describe`'s."""
        chunk, path = self.chunk(joint), self.path(joint)
        count = joint.shape[0]
        return chunk.reshape(count, *self.shapes[0]), path.reshape(count, *self.shapes[1]), self.step(joint)

    def forward(self, text: Tensor, state: Tensor, *maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.decide(self.describe(text, state, *maps))


class FilmPolicy(nn.Module):
    """The four parts under one roof: `vision` (by camera name), `text`, `pool`, `head`."""

    def __init__(self, config: FilmPolicyConfig) -> None:
        super().__init__()
        self.config = config
        trunks = [VisionTrunk(config) for _ in range(1 if config.shared_trunk else len(config.cameras))]
        self.trunks = nn.ModuleList(trunks)
        self.text = TextEncoder(config)
        self.pool = TemporalPool(config)
        self.head = PolicyHead(config)

    def vision(self, camera: str) -> nn.Module:
        """The trunk that sees `camera`.

        Raises:
            KeyError: no such camera.
        """
        names = [one.name for one in self.config.cameras]
        if camera not in names:
            raise KeyError(f"no camera {camera!r}; this model has {names}")
        return self.trunks[0 if self.config.shared_trunk else names.index(camera)]

    def forward(
        self, pixels: Mapping[str, Tensor], ids: Tensor, mask: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The composed reference: `pixels` holds (N, window, 3, H, W) for each camera, oldest first."""
        maps: list[Tensor] = []
        for camera in self.config.cameras:
            maps.extend(self.vision(camera.name)(frame) for frame in pixels[camera.name].unbind(1))
        outputs: tuple[Tensor, Tensor, Tensor] = self.head(self.text(ids, mask), state, *self.pool(*maps))
        return outputs

    def save_pretrained(self, folder: Path, described: Mapping[str, Any]) -> None:
        """Write model.safetensors and config.json; `described` ("contract", "preprocess", ...) goes in untouched."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {key: value.detach().float().contiguous().cpu() for key, value in self.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        config = {"model_type": MODEL_TYPE, "model": self.config.to_dict(), **described}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: Path) -> FilmPolicy:
        """The model of a checkpoint folder, in eval mode.

        Raises:
            OSError: a file is missing.
            ValueError: config.json is of another model or has unknown keys, or model.safetensors has other tensors.
        """
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") != MODEL_TYPE:
            raise ValueError(
                f"{folder / 'config.json'}: expected model_type {MODEL_TYPE!r}, got {config.get('model_type')!r}"
            )
        model = cls(FilmPolicyConfig.from_dict(config["model"]))
        try:
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except RuntimeError as error:
            raise ValueError(f"{folder / 'model.safetensors'}: the tensors don't fit config.json: {error}") from error
        return model.eval()
