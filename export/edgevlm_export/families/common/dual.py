"""What the families with two encoders share: ports, examples, and the original model as judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgevlm.manifest.schema import Port
from edgevlm_export.stage_graph import Answer, RetrieverReference, Stage, one_thread

Tokens = tuple[int, int, int]  # fewest, usual and most ids of a text


class Encode(nn.Module):
    """A function of one tensor over a model whose weights it should carry."""

    def __init__(self, model: nn.Module, run: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self._run = model, run

    def forward(self, tensor: Tensor) -> Tensor:
        """The function's result."""
        return self._run(tensor)


class EncodeMasked(Encode):
    """As `Encode`, of a tensor and a mask."""

    def forward(self, tensor: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """The function's result."""
        return self._run(tensor, mask)


def vision_stage(module: nn.Module, image_size: int, width: int) -> Stage:
    """pixels (1, 3, S, S) -> image_embedding (1, D)."""
    return Stage(
        name="vision",
        module=module,
        inputs=(Port(name="pixels", dtype="float32", shape=(1, 3, image_size, image_size), kind="pixels"),),
        outputs=(Port(name="image_embedding", dtype="float32", shape=(1, width), kind="embedding"),),
        example=(torch.zeros(1, 3, image_size, image_size),),
    )


def text_stage(module: nn.Module, tokens: int | Tokens, width: int, *, masked: bool = False) -> Stage:
    """ids[, mask] (1, L) -> text_embedding (1, D); L is a number, or between the numbers given."""
    dim: int | str = tokens if isinstance(tokens, int) else "tokens"
    length = tokens if isinstance(tokens, int) else tokens[1]
    ports = [Port(name="ids", dtype="int64", shape=(1, dim), kind="ids")]
    example = [torch.zeros(1, length, dtype=torch.int64)]
    if masked:
        ports.append(Port(name="mask", dtype="float32", shape=(1, dim), kind="mask"))
        example.append(torch.ones(1, length))
    return Stage(
        name="text",
        module=module,
        inputs=tuple(ports),
        outputs=(Port(name="text_embedding", dtype="float32", shape=(1, width), kind="embedding"),),
        example=tuple(example),
        dynamic={} if isinstance(tokens, int) else {"tokens": tokens},
    )


def reference(model: Any, tokenize: Callable[[list[str]], dict[str, Tensor]]) -> RetrieverReference:
    """`model` on pictures and texts in one native forward."""

    def run(pixels: NDArray[np.float32], texts: Sequence[str]) -> Answer:
        with one_thread(), torch.no_grad():
            out = model(pixel_values=torch.from_numpy(pixels), **tokenize(list(texts)))
        return Answer(out.logits_per_image.numpy(), out.image_embeds.numpy(), out.text_embeds.numpy())

    return run
