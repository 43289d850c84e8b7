"""Checkpoints of detectors that cannot be exported: a typed error each with file or field, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from support import hub, owls

from edgevlm.errors import CheckpointError, EdgevlmError, FamilyError
from edgevlm_export.exporter import export
from edgevlm_export.families import build


@pytest.fixture
def copy(owl_source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(owl_source, tmp_path / "copy"))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def refused(folder: Path, error: type[EdgevlmError], message: str) -> None:
    with pytest.raises(error, match=message):
        export(folder, folder.parent / "bundle")
    assert not (folder.parent / "bundle").exists()


def test_shards_are_one_model_and_a_missing_one_is_named(owl_family: str, tmp_path: Path) -> None:
    sharded = getattr(owls, owl_family)(tmp_path / "sharded", max_shard_size="200KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert build(sharded).task == "detector"
    missing = sorted(sharded.glob("*.safetensors"))[1]
    missing.unlink()
    refused(sharded, CheckpointError, missing.name)


def test_missing_and_pickled_weights_say_what_to_do(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    refused(copy, CheckpointError, r"missing \['model.safetensors'\]")
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused(copy, CheckpointError, "pickled, which edgevlm never opens")


def test_a_head_without_weights_is_named(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["box_head.dense1.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    refused(copy, CheckpointError, "lack.*box_head.dense1.weight")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"auto_map": {"AutoModel": "x--y.Z"}}, "trust_remote_code"),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("config.json", {"architectures": ["SomethingModel"]}, "architectures"),
        ("config.json", {"model_type": "owl3"}, "expected a model_type among"),
        ("preprocessor_config.json", {"do_resize": False}, "do_resize"),
        ("preprocessor_config.json", {"size": {"height": 32, "width": 32}}, "image_size"),
        ("preprocessor_config.json", {"size": {"height": 64, "width": 32}}, "image_size"),
    ],
)
def test_a_variant_that_is_not_supported_names_the_field(
    copy: Path, file: str, change: dict[str, Any], message: str
) -> None:
    edit(copy / file, lambda data: data.update(change))
    refused(copy, FamilyError, message)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("owlvit", {"do_center_crop": True}, "do_center_crop"),
        ("owlvit", {"resample": 4}, "resample"),
        ("owlvit", {"size": {"shortest_edge": 64}, "do_center_crop": True}, "do_center_crop"),
        ("owlv2", {"do_pad": False}, "do_pad"),
        ("owlv2", {"do_rescale": False}, "do_rescale"),
        ("owlv2", {"rescale_factor": 0.01}, "rescale_factor"),
        ("owlv2", {"resample": 0}, "resample"),
    ],
)
def test_an_image_processor_that_boxes_do_not_survive_names_the_field(
    family: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = getattr(owls, family)(tmp_path / "copy")
    edit(source / "preprocessor_config.json", lambda data: data.update(change))
    refused(source, FamilyError, message)


@pytest.mark.parametrize(
    ("tower", "field", "value"),
    [
        ("vision_config", "hidden_act", "xielu"),
        ("text_config", "hidden_act", "xielu"),
        ("vision_config", "num_channels", 4),
        ("vision_config", "image_size", [64, 32]),
    ],
)
def test_a_tower_that_is_not_supported_names_the_field(copy: Path, tower: str, field: str, value: Any) -> None:
    edit(copy / "config.json", lambda data: data[tower].update({field: value}))
    refused(copy, FamilyError, rf"{tower}\.{field}")


def test_a_missing_tokenizer_is_named_and_none_is_invented(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    refused(copy, CheckpointError, r"tokenizer\.json: expected this file")


def test_a_tokenizer_of_another_model_is_refused(copy: Path) -> None:
    vocabulary = {f"more{i}": 9000 + i for i in range(9)}
    edit(copy / "tokenizer.json", lambda data: data["model"]["vocab"].update(vocabulary))
    refused(copy, CheckpointError, "tokenizer and weights are of different models")


def test_a_tokenizer_whose_end_is_not_the_highest_id_is_refused(owl_family: str, tmp_path: Path) -> None:
    def more_words(model: Any) -> None:
        tower = owls.tower_of(model).text_model
        table = tower.embeddings.token_embedding
        table.weight.data = table.weight.data.repeat(2, 1)
        table.num_embeddings = model.config.text_config.vocab_size = len(table.weight)

    source = getattr(owls, owl_family)(tmp_path / "copy", edit=more_words)
    assert build(source).task == "detector"  # room for more ids is no fault
    tokenizer = hub.clip_tokenizer(model_max_length=owls.TOKENS)
    tokenizer.add_tokens(["<thing>"])
    tokenizer.save_pretrained(source)
    refused(source, CheckpointError, "ends it with its highest one")


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"{", b"[]"])
def test_files_that_are_not_json_are_named(copy: Path, file: str, content: bytes) -> None:
    (copy / file).write_bytes(content)
    refused(copy, CheckpointError, file)


def test_a_missing_image_processor_is_a_checkpoint_error(copy: Path) -> None:
    (copy / "preprocessor_config.json").unlink()
    refused(copy, CheckpointError, "transformers cannot read it")


def test_a_list_of_sides_as_older_checkpoints_have_it_is_a_size(copy: Path) -> None:
    want = build(copy).preprocess
    edit(copy / "preprocessor_config.json", lambda data: data.update(size=[owls.IMAGE, owls.IMAGE]))
    assert build(copy).preprocess == want
