"""Weights that come from the names and shapes of tensors alone: of a large checkpoint a test keeps a short list."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, NDArray[np.float32]]:
    """One tensor for each name, the same on every machine; sizes are such that a deep net neither dies nor explodes."""
    return {name: _one(name, tuple(shape)) for name, shape in shapes.items()}


def _one(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    random = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rpartition(".")[2]
    if kind == "running_var":
        values = random.uniform(0.5, 1.5, shape)
    elif kind in ("bias", "in_proj_bias", "running_mean"):
        values = 0.1 * random.standard_normal(shape)
    elif len(shape) == 1:  # the weight of a norm; the second one of a block of convolutions is small
        values = random.uniform(0.3, 0.6, shape) if ".bn2." in name else random.uniform(0.8, 1.4, shape)
    elif "embed" in name or "pos_enc" in name:
        values = random.standard_normal(shape)
    elif kind == "in_proj_weight":  # wide, so that attention is sharp and it matters where things are
        values = random.standard_normal(shape) * 2.0 / np.sqrt(shape[1])
    else:
        values = random.standard_normal(shape) * np.sqrt((2.0 if len(shape) == 4 else 1.0) / np.prod(shape[1:]))
    return np.asarray(values, np.float32)


def sharpened(tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Tensors of a transformer that looks at pictures: patches no larger than their places, attention that is sharp."""
    factors = {"patch_embedding.weight": 0.1, "q_proj.weight": 1.7, "k_proj.weight": 1.7}
    return {
        name: value * np.float32(next((by for end, by in factors.items() if name.endswith(end)), 1.0))
        for name, value in tensors.items()
    }
