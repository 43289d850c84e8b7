"""Checkpoint directories that cannot be exported: a typed error each, naming file or field, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import hub

from edgevlm.errors import CheckpointError, EdgevlmError, FamilyError
from edgevlm_export.exporter import export
from edgevlm_export.families import build
from edgevlm_export.stage_graph import RetrieverGraph


@pytest.fixture
def copy(hub_source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hub_source, tmp_path / "copy"))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def refused(folder: Path, error: type[EdgevlmError], message: str) -> None:
    with pytest.raises(error, match=message):
        export(folder, folder.parent / "bundle")
    assert not (folder.parent / "bundle").exists()


def test_shards_are_one_model(family: str, hub_source: Path, tmp_path: Path) -> None:
    sharded = getattr(hub, family)(tmp_path / "sharded", max_shard_size="200KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    texts, pixels = ["a cat", "two dogs"], np.random.default_rng(0).normal(size=(1, 3, hub.IMAGE, hub.IMAGE))
    answers = []
    for folder in (hub_source, sharded):
        graph = build(folder)
        assert isinstance(graph, RetrieverGraph)
        answers.append(graph.reference(pixels.astype(np.float32), texts).logits)
    np.testing.assert_allclose(*answers, rtol=1e-5)
    missing = sorted(sharded.glob("*.safetensors"))[1]
    missing.unlink()
    refused(sharded, CheckpointError, missing.name)


def test_a_shard_that_leads_out_is_refused(family: str, tmp_path: Path) -> None:
    sharded = getattr(hub, family)(tmp_path / "sharded", max_shard_size="200KB")
    index = sharded / "model.safetensors.index.json"
    edit(index, lambda data: data["weight_map"].update({next(iter(data["weight_map"])): "../model.safetensors"}))
    refused(sharded, CheckpointError, "plain file names")


def test_missing_and_pickled_weights_say_what_to_do(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    refused(copy, CheckpointError, r"missing \['model.safetensors'\]")
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused(copy, CheckpointError, "pickled, which edgevlm never opens")


def test_truncated_weights_are_refused(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    refused(copy, CheckpointError, "expected whole safetensors")


def test_weights_that_are_missing_or_not_finite_are_named(copy: Path) -> None:
    path = copy / "model.safetensors"
    weights = load_file(path)
    name = "text_model.encoder.layers.1.mlp.fc1.bias"
    save_file({**weights, name: weights[name] * np.float32("nan")}, path, {"format": "pt"})
    refused(copy, CheckpointError, name)
    del weights[name]
    save_file(weights, path, {"format": "pt"})
    refused(copy, CheckpointError, f"lack.*{name}")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"auto_map": {"AutoModel": "x--y.Z"}}, "trust_remote_code"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Y", None]}}, "trust_remote_code"),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("config.json", {"architectures": ["SomethingForImageClassification"]}, "architectures"),
        ("preprocessor_config.json", {"resample": 4}, "resample"),
        ("preprocessor_config.json", {"do_resize": False}, "do_resize"),
        ("preprocessor_config.json", {"do_pad": True}, "do_pad"),
        ("preprocessor_config.json", {"size": {"longest_edge": 48, "shortest_edge": 48}}, "size"),
        ("preprocessor_config.json", {"size": {"height": 32, "width": 32}, "crop_size": {"height": 32, "width": 32}},
         "image_size"),
    ],
)  # fmt: skip
def test_a_variant_that_is_not_supported_names_the_field(
    copy: Path, file: str, change: dict[str, Any], message: str
) -> None:
    edit(copy / file, lambda data: data.update(change))
    refused(copy, FamilyError, message)


@pytest.mark.parametrize(
    ("tower", "field", "value"),
    [
        ("vision_config", "hidden_act", "xielu"),
        ("text_config", "hidden_act", "xielu"),
        ("vision_config", "num_channels", 4),
    ],
)
def test_a_tower_that_is_not_supported_names_the_field(copy: Path, tower: str, field: str, value: Any) -> None:
    edit(copy / "config.json", lambda data: data[tower].update({field: value}))
    refused(copy, FamilyError, rf"{tower}\.{field}")


def test_a_tokenizer_of_another_model_is_refused(family: str, copy: Path) -> None:
    if family == "clip":
        edit(
            copy / "tokenizer.json",
            lambda data: data["model"]["vocab"].update({f"more{i}": 9000 + i for i in range(9)}),
        )
    else:
        weights = load_file(copy / "model.safetensors")
        name = "text_model.embeddings.token_embedding.weight"
        save_file({**weights, name: weights[name][:50].copy()}, copy / "model.safetensors", {"format": "pt"})
        edit(copy / "config.json", lambda data: data["text_config"].update(vocab_size=50))
    refused(copy, CheckpointError, "tokenizer and weights are of different models")


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"{", b"[]"])
def test_files_that_are_not_json_are_named(copy: Path, file: str, content: bytes) -> None:
    (copy / file).write_bytes(content)
    refused(copy, CheckpointError, file)


def test_a_missing_image_processor_is_a_checkpoint_error(copy: Path) -> None:
    (copy / "preprocessor_config.json").unlink()
    refused(copy, CheckpointError, "transformers cannot read it")


def test_a_sentencepiece_model_that_is_none_is_refused(family: str, copy: Path) -> None:
    if family == "clip":
        (copy / "tokenizer.json").write_text("{}")
        refused(copy, CheckpointError, r"tokenizer\.json")
    else:
        (copy / "spiece.model").write_bytes(b"no model")
        refused(copy, CheckpointError, "transformers cannot read it")
