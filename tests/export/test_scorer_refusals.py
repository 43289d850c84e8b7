"""VisualBERT checkpoints that cannot be exported: a typed error each, naming file or field, nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import pairs

from edgevlm.errors import CheckpointError, EdgevlmError, FamilyError
from edgevlm_export.exporter import export
from edgevlm_export.families import build
from edgevlm_export.stage_graph import ScorerGraph


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return pairs.visual_bert(tmp_path / "copy")


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def refused(folder: Path, error: type[EdgevlmError], message: str) -> None:
    with pytest.raises(error, match=message):
        export(folder, folder.parent / "bundle")
    assert not (folder.parent / "bundle").exists()


def test_the_tokenizer_that_published_ones_lack_is_asked_for(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    refused(copy, CheckpointError, r"tokenizer\.json: expected this file.*copy tokenizer\.json.*google-bert/bert-base")


def test_a_tokenizer_of_another_model_is_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    name = "visual_bert.embeddings.word_embeddings.weight"
    save_file({**weights, name: weights[name][:50].copy()}, copy / "model.safetensors", {"format": "pt"})
    edit(copy / "config.json", lambda data: data.update(vocab_size=50))
    refused(copy, CheckpointError, "tokenizer and weights are of different models")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    sharded = pairs.visual_bert(tmp_path / "sharded", max_shard_size="150KB")
    graph = build(sharded)
    assert isinstance(graph, ScorerGraph)
    complete = build(pairs.visual_bert(tmp_path / "whole"))
    assert isinstance(complete, ScorerGraph)
    asked = (pairs.regions(), "is it red?")
    np.testing.assert_allclose(graph.reference(*asked), complete.reference(*asked), rtol=1e-5)
    missing = sorted(sharded.glob("*.safetensors"))[1]
    missing.unlink()
    refused(sharded, CheckpointError, missing.name)


def test_pickled_weights_say_what_to_do(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04.")  # as the published ones have them
    refused(copy, CheckpointError, "pickled, which edgevlm never opens")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bypass_transformer": True}, "'bypass_transformer'"),
        ({"hidden_act": "xielu"}, "'hidden_act'"),
        ({"architectures": ["VisualBertForPreTraining"]}, "'architectures'.*pre-training"),
        ({"architectures": ["VisualBertForMultipleChoice"]}, "'architectures'.*multiple choice"),
        ({"architectures": ["VisualBertForRegionToPhraseAlignment"]}, "'architectures'"),
        ({"architectures": None}, "'architectures'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"auto_map": {"AutoModel": "x--y.Z"}}, "trust_remote_code"),
    ],
)
def test_a_variant_that_is_not_supported_names_the_field(copy: Path, change: dict[str, Any], message: str) -> None:
    edit(copy / "config.json", lambda data: data.update(change))
    refused(copy, EdgevlmError, message)


def test_a_gap_in_the_labels_is_named(copy: Path) -> None:
    edit(copy / "config.json", lambda data: data["id2label"].update({"20": data["id2label"].pop("3")}))
    refused(copy, FamilyError, "'id2label': expected a name for each column from 0 to 9")


@pytest.mark.parametrize(
    "names",
    [[""] * 10, ["yes"] * 10, [*"abcdefghi", " "], ["", *"bcdefghij"]],
    ids=["all-empty", "all-equal", "blank", "first-empty"],
)
def test_labels_that_say_nothing_are_refused(copy: Path, names: list[str]) -> None:
    edit(copy / "config.json", lambda data: data.update(id2label={str(i): name for i, name in enumerate(names)}))
    refused(copy, FamilyError, "'id2label': expected two or more different labels and none of them empty")


def test_weights_that_are_missing_or_not_finite_are_named(copy: Path) -> None:
    path = copy / "model.safetensors"
    weights = load_file(path)
    name = "visual_bert.embeddings.visual_projection.bias"
    save_file({**weights, name: weights[name] * np.float32("nan")}, path, {"format": "pt"})
    refused(copy, CheckpointError, name)
    del weights[name]
    save_file(weights, path, {"format": "pt"})
    refused(copy, CheckpointError, f"lack.*{name}")


def test_regions_need_a_type_of_their_own(copy: Path) -> None:
    path = copy / "model.safetensors"
    weights = load_file(path)
    for name in ("token_type_embeddings", "visual_token_type_embeddings"):
        full = f"visual_bert.embeddings.{name}.weight"
        weights[full] = weights[full][:1].copy()
    save_file(weights, path, {"format": "pt"})
    edit(copy / "config.json", lambda data: data.update(type_vocab_size=1))
    refused(copy, FamilyError, "'type_vocab_size': expected 2 or more, got 1")
