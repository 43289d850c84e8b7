"""A SmolVLA that cannot be exported as it is: the error is typed, names the field, and says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import lerobot_policies as policies

from edgevlm.errors import CheckpointError, ContractError, EdgevlmError, FamilyError
from edgevlm.manifest.image_ops import Normalize
from edgevlm_export.families import build
from edgevlm_export.stage_graph import PolicyGraph

BEFORE, CONFIG = "policy_preprocessor.json", "config.json"
CASE = "smolvla"
Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policies.write_policy(tmp_path_factory.mktemp(CASE) / "policy", CASE)


@pytest.fixture
def source(published: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(published, tmp_path / "policy"))


def edit(path: Path, change: Edit) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def graph(source: Path, robot: dict[str, Any] | None = None) -> PolicyGraph:
    created = build(source, robot=policies.write_robot(source.parent / "robot.yaml", robot, CASE))
    assert isinstance(created, PolicyGraph)
    return created


def put(**more: Any) -> Edit:
    return lambda content: content.update(more)


def step(index: int, **more: Any) -> Edit:
    return lambda content: content["steps"][index]["config"].update(more)


FAULTS: list[tuple[str, Edit, type[EdgevlmError], str]] = [
    (CONFIG, put(n_obs_steps=2), FamilyError, "n_obs_steps: expected 1, got 2"),
    (CONFIG, put(use_peft=True), FamilyError, "use_peft.*merge the adapter"),
    (CONFIG, put(use_cache=False), FamilyError, "use_cache: expected True"),
    (CONFIG, put(adapt_to_pi_aloha=True), FamilyError, "adapt_to_pi_aloha.*robot's own units"),
    (CONFIG, put(use_delta_joint_actions_aloha=True), FamilyError, "use_delta_joint_actions_aloha"),
    (CONFIG, put(rtc_config={"enabled": True}), FamilyError, "rtc_config.*set it to null"),
    (CONFIG, put(attention_mode="mixed"), FamilyError, "attention_mode: expected 'cross_attn' or 'self_attn'"),
    (CONFIG, put(num_expert_layers=3), FamilyError, "num_expert_layers: expected a divisor of .* 4 layers, got 3"),
    (CONFIG, put(num_expert_layers=2), FamilyError, "num_expert_layers.*LeRobot cannot run it either"),
    (
        CONFIG,
        put(num_expert_layers=2, attention_mode="self_attn"),
        FamilyError,
        "num_expert_layers.*LeRobot cannot run it either",
    ),
    (CONFIG, put(num_vlm_layers="4"), CheckpointError, "num_vlm_layers: expected a whole number, got '4'"),
    (CONFIG, put(num_vlm_layers=2), CheckpointError, "tensors do not fit"),
    (CONFIG, put(chunk_size=0), CheckpointError, "chunk_size: expected a whole number over 0, got 0"),
    (CONFIG, put(n_action_steps=9), CheckpointError, "n_action_steps: expected at most the chunk's 6 rows, got 9"),
    (CONFIG, put(num_steps=0), CheckpointError, "num_steps"),
    (CONFIG, put(max_state_dim=4), CheckpointError, "max_state_dim: expected room for 5 numbers"),
    (CONFIG, put(max_action_dim=4), CheckpointError, "max_action_dim: expected room for 5 numbers"),
    (CONFIG, put(max_action_dim=9), CheckpointError, "tensors do not fit"),
    (CONFIG, put(expert_width_multiplier=0.0), CheckpointError, "expert_width_multiplier"),
    (CONFIG, put(expert_width_multiplier=0.51), CheckpointError, "tensors do not fit|expert_width_multiplier"),
    (CONFIG, put(min_period=4.0), CheckpointError, "min_period, max_period"),
    (CONFIG, put(empty_cameras=-1), CheckpointError, "empty_cameras"),
    (CONFIG, put(resize_imgs_with_padding=[32]), CheckpointError, r"resize_imgs_with_padding: expected \[width"),
    (CONFIG, put(resize_imgs_with_padding=[32, 64]), FamilyError, "resize_imgs_with_padding: expected a square"),
    (CONFIG, put(resize_imgs_with_padding=[40, 40]), FamilyError, "multiple of 16"),
    (CONFIG, put(resize_imgs_with_padding=None), FamilyError, "input_features: observation.images.top: expected a sq"),
    (CONFIG, put(vlm_model_name=None), CheckpointError, "vlm_model_name: expected a model's id or directory"),
    (CONFIG, put(vlm_model_name="/nowhere/at-all"), CheckpointError, "vlm_model_name '/nowhere/at-all'.*put the model"),
    (CONFIG, lambda config: config["input_features"].pop("observation.state"), FamilyError, "needs a state"),
    (BEFORE, step(3, padding_side="left"), FamilyError, "tokenizer_processor: padding_side: expected 'right'"),
    (BEFORE, step(3, max_length=0), CheckpointError, "max_length: expected a whole number over 0"),
    (BEFORE, step(3, tokenizer_name="/nowhere"), CheckpointError, "expected a directory with tokenizer.json"),
    (BEFORE, step(5, norm_map={"VISUAL": "MEAN_STD"}), FamilyError, "normalization of VISUAL: expected IDENTITY"),
    (BEFORE, lambda content: content["steps"].pop(3), CheckpointError, "expected a step 'tokenizer_processor'"),
    (BEFORE, lambda content: content.pop("steps"), CheckpointError, "list of steps"),
    ("vlm/config.json", put(model_type="idefics3"), FamilyError, "'model_type': expected one of"),
    ("vlm/config.json", put(auto_map={"AutoModel": "x.py"}), FamilyError, "trust_remote_code"),
    ("vlm/config.json", lambda c: c["text_config"].update(hidden_size=32), CheckpointError, "tensors do not fit"),
    ("vlm/config.json", lambda c: c["text_config"].update(model_type="gemma"), FamilyError, "text_config.model_type"),
]


@pytest.mark.parametrize(("name", "change", "error", "message"), FAULTS)
def test_a_variant_or_a_fault_is_named(
    source: Path, name: str, change: Edit, error: type[EdgevlmError], message: str
) -> None:
    edit(source / name, change)
    with pytest.raises(error, match=message):
        graph(source)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_a_damaged_model_of_words_names_the_file(source: Path, name: str, fault: str) -> None:
    path = source / "vlm" / name
    content = path.read_bytes()
    path.unlink()
    if fault == "truncated":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=name):
        graph(source)


def test_the_tokenizer_may_lie_in_the_policy_itself(source: Path) -> None:
    (source / "tokenizer").mkdir()
    shutil.move(source / "vlm" / "tokenizer.json", source / "tokenizer" / "tokenizer.json")
    edit(source / BEFORE, step(3, tokenizer_name="tokenizer"))
    assert graph(source).tokenizer == source / "tokenizer" / "tokenizer.json"


def test_a_tokenizer_of_another_model_is_refused(source: Path) -> None:
    edit(source / "vlm/tokenizer.json", lambda content: content["model"]["vocab"].update({"cups": 999}))
    tensors = load_file(source / "model.safetensors")
    names = [name for name in tensors if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    save_file({**tensors, **{name: tensors[name][:300] for name in names}}, source / "model.safetensors")
    edit(source / "vlm/config.json", lambda content: content["text_config"].update(vocab_size=300))
    with pytest.raises(CheckpointError, match="the tokenizer puts out ids up to"):
        graph(source)


def test_words_that_are_stored_as_the_last_map_are_detected(source: Path) -> None:
    """As a trainer saves them that keeps shared tensors once, and compiles the model."""
    tensors = load_file(source / "model.safetensors")
    words = "model.vlm_with_expert.vlm.model.text_model.embed_tokens.weight"
    retained = {name: value for name, value in tensors.items() if name != words}
    retained["model.vlm_with_expert.vlm.lm_head.weight"] = tensors[words]
    save_file(
        {name.replace("model.", "model._orig_mod.", 1): one for name, one in retained.items()},
        source / "model.safetensors",
    )
    created = graph(source).embeddings
    assert created is not None and np.array_equal(created.astype(np.float32), tensors[words])


def test_statistics_of_several_robots_are_refused(source: Path) -> None:
    for path in source.glob("policy_*"):
        path.unlink()
    tensors = load_file(source / "model.safetensors")
    kinds = ("normalize_inputs.so100{}_buffer_observation_state", "unnormalize_outputs.so100{}_buffer_action")
    for one in ("", "-blue"):
        for kind in kinds:
            tensors |= {f"{kind.format(one)}.{which}": np.ones(5, np.float32) for which in ("mean", "std")}
        save_file(tensors, source / "model.safetensors")
        if not one:
            assert graph(source).contract.action.column("scale").tolist() == [1.0] * 5
    with pytest.raises(CheckpointError, match="statistics of one robot, got several"):
        graph(source)


@pytest.mark.parametrize("name", ["state", "mask", "embeds"])
def test_a_camera_may_not_be_called_as_another_input(source: Path, name: str) -> None:
    robot = policies.robot(CASE)
    robot["cameras"][name] = robot["cameras"].pop("top_eye")
    with pytest.raises(ContractError, match=f"cameras: .*{name}.*choose others"):
        graph(source, robot)


def test_a_robot_that_does_not_fit_is_refused(source: Path) -> None:
    robot = policies.robot(CASE)
    robot["state"]["names"] = ["a", "b"]
    with pytest.raises(ContractError, match=r"state\.names: the policy has 5, the robot file 2"):
        graph(source, robot)
    with pytest.raises(ContractError, match=r"--robot robot\.yaml"):
        build(source)


def test_pictures_that_fit_are_not_resized(tmp_path: Path) -> None:
    source = policies.write_policy(tmp_path / "policy", "smolvla_few")
    created = build(source, robot=policies.write_robot(tmp_path / "robot.yaml", case="smolvla_few"))
    assert [type(one) for one in created.preprocess["front_eye"]] == [Normalize]
