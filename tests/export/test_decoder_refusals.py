"""Chats that cannot be exported: a typed error each, naming file or field, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from support import captioners, chats, hub

from edgevlm.errors import CheckpointError, EdgevlmError, FamilyError
from edgevlm_export.exporter import export
from edgevlm_export.families import build


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def put(data: dict[str, Any], field: str, value: Any) -> None:
    """Set a dotted field."""
    *parts, last = field.split(".")
    for part in parts:
        data = data[part]
    data[last] = value


def refused(folder: Path, error: type[EdgevlmError], message: str, **options: Any) -> None:
    with pytest.raises(error, match=message):
        export(folder, folder.parent / "bundle", **options)
    assert not (folder.parent / "bundle").exists()


@pytest.mark.parametrize(
    ("family", "file", "field", "value", "message"),
    [
        ("llava", "config.json", "vision_config.model_type", "pixtral", r"vision_config\.model_type"),
        ("llava", "config.json", "text_config.model_type", "mistral", r"text_config\.model_type"),
        ("llava", "config.json", "vision_feature_layer", [-2, -5], "vision_feature_layer"),
        ("llava", "config.json", "vision_feature_layer", -9, "vision_feature_layer"),
        ("llava", "config.json", "auto_map", {"AutoModel": "x--y.Z"}, "trust_remote_code"),
        ("llava", "tokenizer_config.json", "auto_map", {"AutoTokenizer": ["x.Y", None]}, "trust_remote_code"),
        ("llava", "config.json", "quantization_config", {"quant_method": "gptq"}, "quantization_config"),
        ("llava", "config.json", "architectures", ["LlavaNextForConditionalGeneration"], "architectures"),
        ("llava", "generation_config.json", "repetition_penalty", 1.2, "repetition_penalty"),
        ("llava", "generation_config.json", "suppress_tokens", [5], "suppress_tokens"),
        ("llava", "generation_config.json", "num_beams", 4, "num_beams"),
        ("blip", "generation_config.json", "repetition_penalty", 1.5, "repetition_penalty"),
        ("blip_vqa", "generation_config.json", "num_beams", 3, "num_beams"),
        ("blip2", "generation_config.json", "min_length", 8, "min_length"),
        ("smolvlm", "config.json", "text_config.model_type", "qwen2", r"text_config\.model_type"),
        ("smolvlm", "config.json", "vision_config.num_channels", 4, r"vision_config\.num_channels"),
        ("paligemma", "config.json", "text_config.use_bidirectional_attention", False, "use_bidirectional_attention"),
        ("paligemma2", "config.json", "text_config.layer_types", ["chunked_attention"] * 3, "layer_types"),
        ("blip2", "config.json", "text_config.model_type", "t5", r"text_config\.model_type"),
        ("blip2", "config.json", "text_config.word_embed_proj_dim", 32, r"word_embed_proj_dim.*'hidden_size' 64"),
        ("blip2", "config.json", "qformer_config.use_qformer_text_input", True, "use_qformer_text_input"),
        ("blip2", "config.json", "image_token_index", None, "image_token_index"),
        ("blip2", "config.json", "architectures", ["Blip2ForImageTextRetrieval"], "architectures"),
        ("blip2", "processor_config.json", "num_query_tokens", 5, "writes 5 image tokens.* makes 4 features"),
        ("blip", "config.json", "architectures", ["BlipModel"], "this part of the model is not supported"),
        ("blip2", "config.json", "vision_config.image_size", [32, 32], r"vision_config\.image_size"),
        ("blip", "config.json", "vision_config.image_size", [32, 32], r"vision_config\.image_size"),
        ("blip", "config.json", "text_config.is_decoder", False, r"text_config\.is_decoder"),
        ("blip", "config.json", "text_config.sep_token_id", None, r"text_config\.sep_token_id"),
        ("blip", "config.json", "text_config.bos_token_id", 99999, r"text_config\.bos_token_id"),
        ("blip_vqa", "config.json", "text_config.hidden_size", 48, r"text_config\.hidden_size.* 64, got 48"),
        ("blip_vqa", "config.json", "auto_map", {"AutoModel": "x--y.Z"}, "trust_remote_code"),
    ],
)
def test_a_variant_that_is_not_supported_names_the_field(
    family: str,
    file: str,
    field: str,
    value: Any,
    message: str,
    chat_checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    copy = Path(shutil.copytree(chat_checkpoint(family), tmp_path / "copy"))
    edit(copy / file, lambda data: put(data, field, value))
    refused(copy, FamilyError, message)


@pytest.mark.parametrize("make", [chats.llava, captioners.blip, captioners.blip2])
def test_a_missing_shard_is_named(make: Callable[..., Path], tmp_path: Path) -> None:
    source = make(tmp_path / "checkpoint", max_shard_size="200KB")
    shards = sorted(source.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    refused(source, CheckpointError, shards[1].name)


def test_weights_that_are_missing_or_not_finite_are_named(
    chat_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(chat_checkpoint("llava"), tmp_path / "copy"))
    path = copy / "model.safetensors"
    weights = load_file(path)
    name = next(key for key in weights if key.endswith("layers.1.mlp.down_proj.weight"))
    save_file({**weights, name: weights[name] * float("nan")}, path, {"format": "pt"})
    refused(copy, CheckpointError, r"layers\.1\.mlp\.down_proj")
    del weights[name]
    save_file(weights, path, {"format": "pt"})
    refused(copy, CheckpointError, r"lack.*layers\.1\.mlp\.down_proj")


@pytest.mark.parametrize("family", ["llava", "blip2", "blip_vqa"])
def test_a_tokenizer_of_another_model_is_refused(
    family: str, chat_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(chat_checkpoint(family), tmp_path / "copy"))
    edit(copy / "tokenizer.json", lambda data: data["model"]["vocab"].update({f"more{i}": 9000 + i for i in range(9)}))
    refused(copy, CheckpointError, "tokenizer and weights are of different models")


@pytest.mark.parametrize("family", ["llava", "blip2", "blip"])
def test_a_checkpoint_without_a_tokenizer_is_refused(
    family: str, chat_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(chat_checkpoint(family), tmp_path / "copy"))
    (copy / "tokenizer.json").unlink()
    refused(copy, CheckpointError, r"tokenizer\.json")


def test_no_sign_of_an_end_is_refused(chat_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(chat_checkpoint("llava"), tmp_path / "copy"))
    edit(copy / "generation_config.json", lambda data: put(data, "eos_token_id", None))
    edit(copy / "config.json", lambda data: put(data, "text_config.eos_token_id", None))
    refused(copy, FamilyError, "eos_token_id")


def test_several_end_tokens_are_all_stored(chat_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(chat_checkpoint("llava"), tmp_path / "copy"))
    edit(copy / "generation_config.json", lambda data: put(data, "eos_token_id", [7, 2]))
    assert build(copy).driver.args.stop_ids == (2, 7)  # type: ignore[union-attr]


@pytest.mark.parametrize("context", [0, -64, 513])
def test_a_context_beyond_the_model_is_refused(context: int, chat_checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(FamilyError, match=rf"a context of 1 to 512 tokens .*, got {context}"):
        build(chat_checkpoint("llava"), context)


def test_the_context_asked_for_is_the_bundles(chat_checkpoint: Callable[[str], Path]) -> None:
    graph = build(chat_checkpoint("llava"), 260)
    assert graph.driver.args.cache.slots == 320  # type: ignore[union-attr]  # whole steps
    assert graph.stage("decoder").dynamic == {"query": (1, 256, 256), "past": (64, 160, 320), "keys": (65, 416, 576)}
    full = build(chat_checkpoint("paligemma"), 260)  # a prompt is read in one run
    assert full.stage("decoder").dynamic["query"] == (1, 256, 320)
    assert build(chat_checkpoint("llava")).driver.args.cache.slots == 512  # type: ignore[union-attr]


def test_a_context_belongs_to_a_chat(tmp_path: Path) -> None:
    source = hub.clip(tmp_path / "checkpoint")
    refused(source, FamilyError, "--context belongs to a chat", context=256)
