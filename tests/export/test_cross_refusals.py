"""Matching checkpoints that cannot be exported: a typed error each, naming file or field, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import captioners

from edgevlm.errors import CheckpointError, EdgevlmError, FamilyError
from edgevlm_export.exporter import export


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return captioners.blip_matching(tmp_path / "copy")


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def refused(folder: Path, error: type[EdgevlmError], message: str) -> None:
    with pytest.raises(error, match=message):
        export(folder, folder.parent / "bundle")
    assert not (folder.parent / "bundle").exists()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    sharded = captioners.blip_matching(tmp_path / "sharded", max_shard_size="200KB")
    missing = sorted(sharded.glob("*.safetensors"))[1]
    missing.unlink()
    refused(sharded, CheckpointError, missing.name)


def test_a_tokenizer_of_another_model_is_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    name = "text_encoder.embeddings.word_embeddings.weight"
    save_file({**weights, name: weights[name][:50].copy()}, copy / "model.safetensors", {"format": "pt"})
    edit(copy / "config.json", lambda data: data["text_config"].update(vocab_size=50))
    refused(copy, CheckpointError, "tokenizer and weights are of different models")


def test_a_missing_tokenizer_is_a_checkpoint_error(copy: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (copy / name).unlink(missing_ok=True)
    refused(copy, CheckpointError, r"tokenizer\.json.*vocab\.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(architectures=["BlipModel"]), "'architectures'.*BlipForImageTextRetrieval"),
        (lambda data: data["text_config"].update(is_decoder=False), r"text_config\.is_decoder"),
        (lambda data: data.update(auto_map={"AutoModel": "x--y.Z"}), "trust_remote_code"),
        (lambda data: data.update(quantization_config={"quant_method": "gptq"}), "quantization_config"),
    ],
)
def test_a_variant_that_is_not_supported_names_the_field(
    copy: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit(copy / "config.json", change)
    refused(copy, EdgevlmError, message)


@pytest.mark.parametrize(
    ("change", "message"), [({"resample": 4}, "resample"), ({"size": {"height": 16, "width": 16}}, "image_size")]
)
def test_a_picture_prepared_otherwise_names_the_field(copy: Path, change: dict[str, Any], message: str) -> None:
    path = next(
        copy / name for name in ("preprocessor_config.json", "processor_config.json") if (copy / name).is_file()
    )
    edit(path, lambda data: data.get("image_processor", data).update(change))
    refused(copy, FamilyError, message)


def test_weights_that_are_missing_or_not_finite_are_named(copy: Path) -> None:
    path = copy / "model.safetensors"
    weights = load_file(path)
    name = "itm_head.bias"
    save_file({**weights, name: weights[name] * np.float32("nan") + np.float32("nan")}, path, {"format": "pt"})
    refused(copy, CheckpointError, name)
    del weights[name]
    save_file(weights, path, {"format": "pt"})
    refused(copy, CheckpointError, f"lack.*{name}")
