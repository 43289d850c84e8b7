"""What drivers and tasks compute on the host: probabilities of logits, vectors of length 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import NonFiniteError

Array = NDArray[np.float32]


def sigmoid(logits: Array) -> Array:
    """Of each by itself. Never overflows."""
    result: Array = np.exp(-np.logaddexp(np.float32(0), -logits))
    return result


def softmax(logits: Array) -> Array:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def unit(stage: str, vector: Array) -> Array:
    """`vector` (D,), made of length 1. Raises NonFiniteError."""
    length = np.sqrt((vector * vector).sum(dtype=np.float32))
    if not np.isfinite(length) or length == 0:
        raise NonFiniteError(
            f"stage {stage!r}: expected a finite embedding other than 0, got one of length {length}; "
            "the picture or the text makes the model overflow: try an fp32 bundle"
        )
    result: Array = vector / length
    return result
