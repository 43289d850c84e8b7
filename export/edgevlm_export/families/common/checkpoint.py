"""Reading the files of a checkpoint directory, with an error that names the file and what to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from edgevlm.bundle import file_sha256
from edgevlm.errors import CheckpointError, require
from edgevlm_export.checkpoint import AGAIN, CONFIG, WEIGHTS

TOKENIZER = "tokenizer.json"


def read_config(checkpoint: Path) -> dict[str, Any]:
    """config.json.

    Raises:
        CheckpointError: no directory, no file, or no JSON object.
    """
    path = _file(checkpoint, CONFIG)
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON, got an error at {error}; {AGAIN}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(config).__name__}; {AGAIN}")
    return config


def architectures(checkpoint: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that config.json names; none where it names none.

    Raises:
        CheckpointError: something else than a list of names.
    """
    said = config.get("architectures")
    if said is None:
        return ()
    if not isinstance(said, list) or not all(isinstance(name, str) for name in said):
        raise CheckpointError(
            f"{checkpoint / CONFIG}: 'architectures': expected a list of class names, got {said!r:.80}; {AGAIN}"
        )
    return tuple(said)


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """model.safetensors.

    Raises:
        CheckpointError: missing, truncated, or holding NaN or infinity.
    """
    safetensors = require("safetensors.torch", extra="export")
    failure = require("safetensors", extra="export").SafetensorError
    path = _file(checkpoint, WEIGHTS)
    try:
        weights: dict[str, Tensor] = safetensors.load_file(path)
    except (failure, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected whole safetensors, got an error: {error}; {AGAIN}") from error
    if bad := [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise CheckpointError(f"{path}: expected finite weights, found NaN or infinity in {bad[:5]}; {AGAIN}")
    return weights


def tokenizer_file(checkpoint: Path) -> tuple[Path, int]:
    """(tokenizer.json, the number of token ids it can put out).

    Raises:
        CheckpointError: missing or not a tokenizer.
    """
    path = _file(checkpoint, TOKENIZER)
    try:
        json.loads(path.read_bytes())
        size = Tokenizer.from_file(str(path)).get_vocab_size()
    except Exception as error:  # the library raises bare Exception for everything
        raise CheckpointError(
            f"{path}: expected a tokenizer of the `tokenizers` library, got an error: {error}; {AGAIN}"
        ) from error
    return path, int(size)


def source_sha256(checkpoint: Path) -> str:
    """One hash over the three files that make a model."""
    lines = [f"{file_sha256(checkpoint / name)}  {name}\n" for name in (CONFIG, WEIGHTS, TOKENIZER)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file(checkpoint: Path, name: str) -> Path:
    path = checkpoint / name
    if not checkpoint.is_dir():
        raise CheckpointError(
            f"{checkpoint}: expected a checkpoint directory with {CONFIG}, {WEIGHTS} and {TOKENIZER}, found none there"
        )
    if not path.is_file():
        present = sorted(item.name for item in checkpoint.iterdir())
        raise CheckpointError(f"{path}: expected this file in the checkpoint, found only {present}; {AGAIN}")
    return path
