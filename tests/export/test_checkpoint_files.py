"""What the files of a checkpoint state is what is loaded, or it is refused, wherever possible before it is loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import chats, film, hub
from support import lerobot_policies as policies

from edgevlm.errors import CheckpointError, EdgevlmError, FamilyError
from edgevlm_export.checkpoint import Checkpoint, read_header
from edgevlm_export.families import build

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Tensors = dict[str, torch.Tensor]
QUERY = "text_model.encoder.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub.clip(tmp_path_factory.mktemp("clip") / "checkpoint")


@pytest.fixture
def copy(clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip, tmp_path / "copy"))


def rewrite(folder: Path, change: Callable[[Tensors], Any], file: str = WEIGHTS) -> Path:
    weights = load_file(folder / file)
    change(weights)
    save_file(weights, folder / file, metadata={"format": "pt"})
    return folder


def refused(folder: Path, error: type[EdgevlmError], *texts: str, **more: Any) -> None:
    with pytest.raises(error) as caught:
        build(folder, **more)
    for text in texts:
        assert text in str(caught.value)


def lora(weights: Tensors, name: str = QUERY, infix: str = "lora_{}.default.weight") -> None:
    for letter, shape in (("A", (4, 64)), ("B", (64, 4))):
        weights[name.replace("weight", infix.format(letter))] = torch.ones(shape)


def wrapped(weights: Tensors) -> None:
    for name in [name for name in weights if name.endswith("q_proj.weight")]:
        weights[name.replace(".weight", ".base_layer.weight")] = weights.pop(name)


@pytest.mark.parametrize(
    "change",
    [
        lora,
        lambda weights: lora(weights, infix="lora_{}.weight"),
        lambda weights: lora(weights, infix="lora_embedding_{}"),
        wrapped,
        lambda weights: weights.update(
            {QUERY.replace("weight", "lora_magnitude_vector.default.weight"): torch.ones(64)}
        ),
        lambda weights: weights.update({f"base_model.model.{QUERY}": weights.pop(QUERY)}),
        lambda weights: weights.update({QUERY.replace("weight", "hada_w1_a"): torch.ones(4)}),
        lambda weights: weights.update({QUERY.replace("weight", "modules_to_save.default.weight"): torch.ones(4)}),
    ],
    ids=["peft", "unnamed", "embedding", "base-layer", "dora", "prefixed", "loha", "modules-to-save"],
)
def test_an_adapter_that_is_not_merged_is_refused(copy: Path, change: Callable[[Tensors], Any]) -> None:
    refused(rewrite(copy, change), FamilyError, "an adapter that is not merged", "merge the adapter")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_adapter_files_next_to_the_weights_are_refused(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"{}")
    refused(copy, FamilyError, name, "merge the adapter")


def scaled(kind: torch.dtype, suffix: str) -> Callable[[Tensors], None]:
    def change(weights: Tensors) -> None:
        weights[QUERY] = weights[QUERY].to(kind)
        weights[f"{QUERY}{suffix}"] = torch.ones(1)

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (scaled(torch.float8_e4m3fn, "_scale"), "weight_scale"),
        (scaled(torch.float8_e5m2, "_scale_inv"), "weight_scale_inv"),
        (scaled(torch.int8, "_scale"), "weight_scale"),
        (lambda weights: weights.update({QUERY.replace("weight", "SCB"): torch.ones(64)}), "SCB"),
        (lambda weights: weights.update({QUERY.replace("weight", "qweight"): weights.pop(QUERY).int()}), "qweight"),
        (lambda weights: weights.update({f"{QUERY}.absmax": torch.ones(4)}), "absmax"),
        (lambda weights: weights.update({f"{QUERY}.quant_state.bitsandbytes__nf4": torch.ones(4)}), "quant_state"),
        (lambda weights: weights.update({QUERY.replace("weight", "g_idx"): torch.ones(4).int()}), "g_idx"),
        (
            lambda weights: weights.update({QUERY.replace("weight", "weight_packed"): torch.ones(4).int()}),
            "weight_packed",
        ),
        (lambda weights: weights.update({QUERY.replace("weight", "input_scale"): torch.ones(1)}), "input_scale"),
        (lambda weights: weights.update({QUERY: weights[QUERY].to(torch.float8_e4m3fn)}), "F8_E4M3"),
        (lambda weights: weights.update({QUERY: weights[QUERY].to(torch.int8)}), "I8"),
    ],
    ids=[
        "fp8",
        "fp8-inverse",
        "int8",
        "bnb8",
        "gptq",
        "bnb4",
        "bnb4-state",
        "act-order",
        "packed",
        "input",
        "bare-fp8",
        "bare-int8",
    ],
)
def test_quantized_weights_are_refused(copy: Path, change: Callable[[Tensors], Any], named: str) -> None:
    refused(rewrite(copy, change), FamilyError, named, "export the unquantized checkpoint")


@pytest.mark.parametrize("name", ["hf_quant_config.json", "quantize_config.json", "quant_config.json", "weights.gguf"])
def test_files_that_speak_of_quantized_weights_are_refused(copy: Path, name: str) -> None:
    (copy / name).write_text("{}")
    refused(copy, FamilyError, name, "export the unquantized checkpoint")


@pytest.mark.parametrize("place", ["", "text_config", "vision_config", "text_config.inner"])
@pytest.mark.parametrize("method", ["fp8", "gptq", "awq", "compressed-tensors", "bitsandbytes"])
def test_a_quantization_config_is_refused_at_any_depth(copy: Path, place: str, method: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    part = config
    for name in filter(None, place.split(".")):
        part = part.setdefault(name, {})
    part["quantization_config"] = {"quant_method": method}
    (copy / "config.json").write_text(json.dumps(config))
    refused(
        copy, FamilyError, f"'{place}{'.' if place else ''}quantization_config'", "export the unquantized checkpoint"
    )


def test_tensors_that_the_model_has_no_place_for_are_refused(copy: Path) -> None:
    refused(
        rewrite(copy, lambda weights: weights.update({"classifier.weight": torch.ones(2, 2)})),
        CheckpointError,
        "classifier.weight",
        "no place",
    )


def test_a_tensor_of_another_shape_is_refused(copy: Path) -> None:
    refused(rewrite(copy, lambda weights: weights.update({QUERY: torch.ones(32, 64)})), CheckpointError, "q_proj")


def test_known_leftovers_of_older_libraries_are_let_pass(copy: Path) -> None:
    rewrite(copy, lambda weights: weights.update({"text_model.embeddings.position_ids": torch.arange(32)[None]}))
    assert build(copy).family == "clip"


def test_a_tied_weight_that_differs_is_refused(tmp_path: Path) -> None:
    folder = chats.paligemma(tmp_path / "checkpoint")
    name = next(name for name in load_file(folder / WEIGHTS) if name.endswith("embed_tokens.weight"))
    head = {"lm_head.weight": load_file(folder / WEIGHTS)[name].clone()}
    rewrite(folder, lambda weights: weights.update(head))
    build(folder)  # the same numbers twice are one model
    head["lm_head.weight"][3] += 1
    rewrite(folder, lambda weights: weights.update(head))
    refused(folder, CheckpointError, "lm_head.weight")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return hub.clip(tmp_path / "sharded", max_shard_size="200KB")


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def test_a_tensor_in_two_files_is_refused(sharded: Path) -> None:
    first, second = shards(sharded)[:2]
    name, value = next(iter(load_file(first).items()))
    rewrite(sharded, lambda weights: weights.update({name: value + 1}), second.name)
    refused(sharded, CheckpointError, name, first.name, second.name)


def test_an_index_that_contradicts_its_shards_is_refused(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    name = next(name for name, file in index["weight_map"].items() if file == shards(sharded)[0].name)
    index["weight_map"][name] = shards(sharded)[1].name
    (sharded / INDEX).write_text(json.dumps(index))
    refused(sharded, CheckpointError, name, INDEX)


def test_a_shard_that_holds_more_than_the_index_names_is_refused(sharded: Path) -> None:
    rewrite(sharded, lambda weights: weights.update({"more": torch.ones(2)}), shards(sharded)[0].name)
    refused(sharded, CheckpointError, "'more'")


def test_two_sets_of_weights_are_refused(sharded: Path) -> None:
    shutil.copy(shards(sharded)[0], sharded / WEIGHTS)
    refused(sharded, CheckpointError, "two sets of weights")


def test_a_shard_next_to_one_complete_file_is_refused(copy: Path) -> None:
    shutil.copy(copy / WEIGHTS, copy / "model-00001-of-00001.safetensors")
    refused(copy, CheckpointError, "two sets of weights")


@pytest.mark.parametrize("cut", [1, 1000])
def test_a_cut_file_is_refused_by_its_header(copy: Path, cut: int) -> None:
    path = copy / WEIGHTS
    path.write_bytes(path.read_bytes()[:-cut])
    refused(copy, CheckpointError, "whole safetensors")


def test_a_header_that_names_a_tensor_twice_is_refused(tmp_path: Path) -> None:
    one = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = f'{{"a":{one},"a":{one}}}'.encode()
    (tmp_path / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match="'a' stands there twice"):
        read_header(tmp_path / WEIGHTS)


def test_the_header_is_read_as_the_library_reads_it(clip: Path) -> None:
    stored = Checkpoint(clip).tensors
    assert {name: one.shape for name, one in stored.items()} == {
        name: tuple(value.shape) for name, value in load_file(clip / WEIGHTS).items()
    }


def test_policies_are_held_to_it_as_well(tmp_path: Path) -> None:
    policy, robot = policies.write_policy(tmp_path / "act"), policies.write_robot(tmp_path / "robot.yaml")
    build(policy, robot=robot)
    name = "model.encoder.layers.0.linear1.weight"
    rewrite(policy, lambda weights: weights.update({name.replace("weight", "lora_A.weight"): torch.ones(2, 2)}))
    refused(policy, FamilyError, "merge the adapter", robot=robot)
    folder = film.write_checkpoint(tmp_path / "film")
    rewrite(folder, lambda weights: weights.update({next(iter(weights)): next(iter(weights.values())).to(torch.int8)}))
    refused(folder, FamilyError, "I8")


def test_a_policy_with_one_weight_under_two_names_is_refused(tmp_path: Path) -> None:
    policy, robot = policies.write_policy(tmp_path / "act"), policies.write_robot(tmp_path / "robot.yaml")
    name = "model.action_head.weight"
    rewrite(policy, lambda weights: weights.update({name.removeprefix("model."): weights[name] + 1}))
    refused(policy, CheckpointError, "twice", robot=robot)


def test_reading_headers_needs_no_torch(clip: Path) -> None:
    code = (
        "import sys; from edgevlm_export.checkpoint import *; "
        f"print(len(Checkpoint(Path({str(clip)!r})).tensors), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    count, torch_is_there = done.stdout.split()
    assert int(count) > 50
    assert torch_is_there == "False"
