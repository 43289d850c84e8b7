"""Is a loaded model what the files of its checkpoint hold? Compared by content, whatever names a library gave it.

This shares nothing with what loads: a tensor that was dropped, made up, replaced, or tied to another one differs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edgevlm.errors import CheckpointError, require
from edgevlm_export.checkpoint import AGAIN, Checkpoint

# What checkpoints of older libraries hold besides their weights: buffers that are computed from the config today, and
# a bias that T5 never had a use for. Nothing else may be left over.
LEFTOVERS = re.compile(
    r"(^|\.)((embeddings\.)?position_ids|rotary_emb\.inv_freq"
    r"|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight)$"
)
SHOWN = 5


def check_loading(checkpoint: Checkpoint, told: Mapping[str, Any]) -> None:
    """Refuse what upstream's own loader reports. Raises CheckpointError."""
    leftover = [name for name in told.get("unexpected_keys", ()) if not LEFTOVERS.search(name)]
    mismatched = [one[0] if isinstance(one, tuple) else one for one in told.get("mismatched_keys", ())]
    _refuse(checkpoint, "lack", told.get("missing_keys", ()), "which would be made up")
    _refuse(checkpoint, "hold", leftover, "for which the model has no place: they would be dropped")
    _refuse(checkpoint, "hold", mismatched, "of other shapes than config.json says")
    _refuse(checkpoint, "hold", told.get("error_msgs", ()), "which cannot be loaded")


def check_loaded(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
    """Refuse a loaded model (its `state_dict`, in float32) that is not, number for number, what the files hold.

    Raises:
        CheckpointError: naming the tensors.
    """
    held = {name: _digest(value) for name, value in state.items() if value.is_floating_point()}
    stored = {name: _digest(value) for name, value in _floats(checkpoint) if not LEFTOVERS.search(name)}
    loaded, written = set(held.values()), set(stored.values())
    lost = [name for name, digest in stored.items() if digest not in loaded]
    _refuse(checkpoint, "hold", lost, "which the loaded model does not have: they were dropped, or tied to another one")
    made_up = [name for name, digest in held.items() if digest not in written]
    _refuse(checkpoint, "lack", made_up, "which the loaded model has other numbers for")


def check_tied(checkpoint: Checkpoint, tied: Mapping[str, str], state: Mapping[str, Tensor]) -> None:
    """Refuse weights that the config ties (`tied`, each to another) and the files do not. Raises CheckpointError."""
    apart = [f"{one} and {other}" for one, other in tied.items() if not torch.equal(state[one], state[other])]
    _refuse(
        checkpoint, "hold", apart, "which config.json ties to each other ('tie_word_embeddings'), with other numbers"
    )


def _floats(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    opened = require("safetensors", extra="export").safe_open
    for file in checkpoint.weight_files:
        with opened(str(checkpoint / file), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # the library's handle is no mapping
                value = tensors.get_tensor(name)
                if value.is_floating_point():
                    yield name, value


def _digest(value: Tensor) -> bytes:
    """Of the numbers in float32, in whatever shape."""
    plain = value.detach().to(torch.float32).contiguous().reshape(-1)
    return hashlib.blake2b(plain.numpy().data, digest_size=16).digest()


def _refuse(checkpoint: Checkpoint, verb: str, names: Sequence[str], why: str) -> None:
    if names := sorted(map(str, names)):
        raise CheckpointError(
            f"{checkpoint}: the weights {verb} {names[:SHOWN]} ({len(names)} in all), {why}; {AGAIN}, or take the "
            "config.json and the weights of one training"
        )
