"""A LeRobot policy that cannot be exported as it is: the error is typed, names the field, and says what to do."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file
from support import lerobot_policies as policies

from edgevlm.errors import CheckpointError, ContractError, EdgevlmError, FamilyError
from edgevlm.manifest.image_ops import Normalize
from edgevlm_export.exporter import export
from edgevlm_export.families import build
from edgevlm_export.preflight import robot_template
from edgevlm_export.stage_graph import PolicyGraph

BEFORE, AFTER = "policy_preprocessor.json", "policy_postprocessor.json"
Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policies.write_policy(tmp_path_factory.mktemp("act") / "policy")


@pytest.fixture
def source(published: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt; the weights are a link."""
    folder = tmp_path / "policy"
    folder.mkdir()
    for path in published.iterdir():
        if path.name == "model.safetensors":
            (folder / path.name).symlink_to(path)
        else:
            shutil.copyfile(path, folder / path.name)
    return folder


def edit(path: Path, change: Edit) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def graph(source: Path, robot: dict[str, Any] | None = None) -> PolicyGraph:
    created = build(source, robot=policies.write_robot(source.parent / "robot.yaml", robot))
    assert isinstance(created, PolicyGraph)
    return created


def put(**more: Any) -> Edit:
    return lambda content: content.update(more)


def feature(key: str, kind: str, *shape: int, side: str = "input_features") -> Edit:
    return lambda content: content[side].update({key: {"type": kind, "shape": list(shape)}})


CONFIG: list[tuple[Edit, type[EdgevlmError], str]] = [
    (put(chunk_size=0), CheckpointError, "chunk_size: expected a whole number over 0, got 0"),
    (put(chunk_size=True), CheckpointError, "chunk_size"),
    (put(n_action_steps=9), CheckpointError, "n_action_steps: expected at most the chunk's 8 rows, got 9"),
    (put(dim_model=33), CheckpointError, "dim_model"),
    (put(n_heads=3), CheckpointError, "dim_model: expected a multiple of 4 and of n_heads 3"),
    (put(dim_model=64), CheckpointError, "the tensors do not fit"),
    (put(n_encoder_layers=1), CheckpointError, "the tensors do not fit"),
    (put(n_obs_steps=2), FamilyError, "n_obs_steps: expected 1, got 2"),
    (put(temporal_ensemble_coeff=0.01), FamilyError, "temporal_ensemble_coeff: expected None, got 0.01.*executor"),
    (put(vision_backbone="resnet50"), FamilyError, r"vision_backbone: expected one of \['resnet18', 'resnet34'\]"),
    (put(replace_final_stride_with_dilation=True), FamilyError, "replace_final_stride_with_dilation"),
    (put(feedforward_activation="glu"), FamilyError, "feedforward_activation"),
    (put(use_peft=True), FamilyError, "use_peft.*merge the adapter"),
    (put(type="diffusion"), FamilyError, "'diffusion'"),
    (put(input_features=None), FamilyError, "at least one camera"),
    (put(input_features=[1]), CheckpointError, "input_features: expected name -> type and shape"),
    (feature("observation.environment_state", "ENV", 4), FamilyError, "observation.environment_state"),
    (feature("observation.images.depth", "VISUAL", 1, 96, 128), FamilyError, r"observation.images.depth.*\[1, 96"),
    (feature("observation.state", "STATE", 0), CheckpointError, "input_features"),
    (feature("action2", "ACTION", 5, side="output_features"), FamilyError, "'action' alone"),
]


@pytest.mark.parametrize(("change", "error", "message"), CONFIG)
def test_a_variant_or_a_fault_in_the_config_is_named(
    source: Path, change: Edit, error: type[EdgevlmError], message: str
) -> None:
    edit(source / "config.json", change)
    with pytest.raises(error, match=message):
        graph(source)


def step(index: int, **more: Any) -> Edit:
    return lambda content: content["steps"][index].update(more)


def mode(kind: str, value: str) -> Edit:
    return lambda content: content["steps"][3]["config"]["norm_map"].update({kind: value})


PROCESSORS: list[tuple[str, Edit, type[EdgevlmError], str]] = [
    (BEFORE, step(0, registry_name="relative_actions_processor"), FamilyError, "relative_actions_processor"),
    (BEFORE, lambda content: content["steps"].pop(3), CheckpointError, "one step 'normalizer_processor', got 0"),
    (BEFORE, lambda content: content.pop("steps"), CheckpointError, "list of steps"),
    (BEFORE, step(3, state_file="../model.safetensors"), CheckpointError, "state_file"),
    (BEFORE, step(3, state_file="none.safetensors"), CheckpointError, "none.safetensors"),
    (BEFORE, mode("STATE", "QUANTILES"), CheckpointError, "q01 of 'observation.state'"),
    (BEFORE, lambda content: content["steps"][3]["config"].update(eps="much"), CheckpointError, "eps"),
    (AFTER, step(1, registry_name="clip_processor"), FamilyError, "clip_processor"),
]


@pytest.mark.parametrize(("name", "change", "error", "message"), PROCESSORS)
def test_a_step_that_this_version_does_not_know_is_refused(
    source: Path, name: str, change: Edit, error: type[EdgevlmError], message: str
) -> None:
    edit(source / name, change)
    with pytest.raises(error, match=message):
        graph(source)


CAMERA = "observation.images.top"


def scaled(source: Path) -> tuple[float, ...]:
    """What the first camera's pixels are divided by."""
    (operation,) = graph(source).preprocess["top_eye"]
    assert isinstance(operation, Normalize)
    return operation.std


def test_what_the_step_does_not_list_is_not_normalized(source: Path) -> None:
    before = scaled(source)
    edit(source / BEFORE, lambda content: content["steps"][3]["config"]["features"].pop(CAMERA))
    assert scaled(source) == (1.0, 1.0, 1.0) != before


def test_the_keys_of_a_step_choose_among_what_it_lists(source: Path) -> None:
    before = scaled(source)
    edit(source / BEFORE, lambda content: content["steps"][3]["config"].update(normalize_observation_keys=[CAMERA]))
    created = graph(source)
    assert scaled(source) == before
    assert created.contract.state is not None
    assert {(field.mean, field.std) for field in created.contract.state.fields} == {(0.0, 1.0)}


@pytest.mark.parametrize(("how", "ends"), [("QUANTILES", ("q01", "q99")), ("QUANTILE10", ("q10", "q90"))])
def test_quantiles_are_the_ends_of_their_modes(source: Path, how: str, ends: tuple[str, str]) -> None:
    path = source / policies.STATISTICS
    numbers = load_file(path)
    low = np.arange(5, dtype=np.float32)
    numbers |= {f"observation.state.{ends[0]}": low, f"observation.state.{ends[1]}": low + 4}
    save_file(numbers, path)
    edit(source / BEFORE, mode("STATE", how))
    state = graph(source).contract.state
    assert state is not None
    assert [(field.mean, field.std) for field in state.fields] == [(i + 2.0, 2.0) for i in range(5)]


@pytest.mark.parametrize(("kind", "nearest"), [("pi05", "smolvla"), ("diffusion", "act"), ("smolvl", "smolvla")])
def test_an_unknown_policy_names_the_nearest_and_the_docs(source: Path, kind: str, nearest: str) -> None:
    edit(source / "config.json", put(type=kind))
    with pytest.raises(FamilyError, match=f"{kind}.*nearest is '{nearest}'.*docs/lerobot.md"):
        graph(source)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", BEFORE, AFTER, policies.STATISTICS])
@pytest.mark.parametrize("fault", ["missing", "truncated", "empty"])
def test_a_damaged_directory_names_the_file(source: Path, name: str, fault: str) -> None:
    path = source / name
    content = path.read_bytes()
    path.unlink()
    if fault != "missing":
        path.write_bytes(content[: len(content) // 2] if fault == "truncated" else b"")
    with pytest.raises(CheckpointError, match=name):
        graph(source)


def test_no_statistics_at_all_are_missed(source: Path) -> None:
    for path in source.glob("policy_*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"expected statistics.*policy_preprocessor\.json.*normalize_inputs"):
        graph(source)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "observation.images.top.mean",
            None,
            "mean of 'observation.images.top': expected 3 finite numbers, got nothing",
        ),
        ("observation.state.std", np.ones(4, np.float32), "std of 'observation.state': expected 5 finite numbers"),
        ("observation.state.mean", np.full(5, np.inf, np.float32), "finite"),
    ],
)
def test_statistics_that_do_not_fit_are_named(source: Path, name: str, value: Any, message: str) -> None:
    tensors = load_file(source / policies.STATISTICS)
    tensors.pop(name)
    save_file({**tensors, **({} if value is None else {name: value})}, source / policies.STATISTICS)
    with pytest.raises(CheckpointError, match=message):
        graph(source)


def test_a_joint_that_never_moved_cannot_be_scaled_to_its_range(source: Path) -> None:
    edit(source / BEFORE, mode("STATE", "MIN_MAX"))
    tensors = load_file(source / policies.STATISTICS)
    tensors["observation.state.min"][2] = tensors["observation.state.max"][2]
    save_file(tensors, source / policies.STATISTICS)
    with pytest.raises(CheckpointError, match=r"observation\.state\[2\]: expected numbers that moved"):
        graph(source)


def test_numbers_that_the_policy_leaves_alone_are_left_alone(source: Path) -> None:
    identity = {"VISUAL": "IDENTITY", "STATE": "IDENTITY", "ACTION": "IDENTITY"}
    for name, index in ((BEFORE, 3), (AFTER, 0)):
        edit(source / name, lambda content, at=index: content["steps"][at]["config"].update(norm_map=identity))
    contract = graph(source).contract
    assert contract.state is not None
    assert [(field.mean, field.std) for field in contract.state.fields] == [(0.0, 1.0)] * 5
    assert contract.action.column("scale").tolist() == [1.0] * 5
    operation = graph(source).preprocess["top_eye"][0].model_dump()
    assert (operation["mean"], operation["std"]) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_without_a_robot_file_the_verb_that_prints_one_is_named(source: Path) -> None:
    with pytest.raises(ContractError, match=rf"`edgevlm robot {source} > robot.yaml`"):
        build(source)


def test_the_template_is_refused_as_long_as_a_mark_stands_in_it(source: Path) -> None:
    displayed = robot_template(source)
    created = yaml.safe_load(displayed)
    assert {name: one["feature"] for name, one in created["cameras"].items()} == {
        "top": "observation.images.top",
        "wrist": "observation.images.wrist",
    }
    assert len(created["action"]["groups"][0]["names"]) == 5 and created["action"]["execute_steps"] == 5
    (source.parent / "robot.yaml").write_text(displayed)
    with pytest.raises(ContractError, match=r"got '\?' at cameras\.top\.rate_hz\.0, .*action\.groups\.0\.upper\.4;"):
        build(source, robot=source.parent / "robot.yaml")


def test_the_template_filled_in_is_a_robot_file(source: Path) -> None:
    created = yaml.safe_load(robot_template(source))
    for camera in created["cameras"].values():
        camera["rate_hz"] = [10.0, 30.0]
    names = list(policies.JOINTS)
    created["state"] = {"names": names, "units": ["rad"] * 5}
    group = {"kind": "joint_position", "names": names, "units": ["rad"] * 5, "lower": [-3] * 5, "upper": [3] * 5}
    created["action"].update(step_s=0.1, groups=[group])
    assert graph(source, created).contract.action.names == policies.JOINTS


def test_names_and_pace_of_the_data_set_go_into_the_template(source: Path) -> None:
    (source / "meta").mkdir()
    names = ["shoulder_pan.pos", "elbow.pos", "yes", "roll.pos", "grip.pos"]
    info = {"fps": 30, "features": {"action": {"names": names}, "observation.state": {"names": {"motors": names}}}}
    (source / "meta" / "info.json").write_text(json.dumps(info))
    created = yaml.safe_load(robot_template(source))
    assert created["state"]["names"] == names and created["action"]["groups"][0]["names"] == names
    assert created["action"]["step_s"] == pytest.approx(1 / 30, abs=1e-6)


def at(*path: Any, value: Any) -> Edit:
    def change(content: dict[str, Any]) -> None:
        target: Any = content
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


MISFITS: list[tuple[Edit, str]] = [
    (
        lambda robot: robot["cameras"].pop("top_eye"),
        r"the policy sees .*top.*the robot gives \['observation.images.wrist'\]",
    ),
    (at("cameras", "top_eye", "feature", value="observation.images.rear"), "observation.images.rear"),
    (at("cameras", "top_eye", "feature", value="observation.images.wrist"), "name each feature once"),
    (
        at("cameras", "top_eye", "width", value=640),
        "'top_eye': the policy was trained on 128x96, the robot gives 640x96",
    ),
    (at("cameras", "top_eye", "rate_hz", value=[30.0, 10.0]), "rate_hz must be"),
    (at("cameras", "top_eye", "rate_hz", value=[0.0, 10.0]), "rate"),
    (at("cameras", "top_eye", "encoding", value="yuv"), "encoding"),
    (at("cameras", "top_eye", "speed", value=1), "speed"),
    (at("state", value=None), "state.names: the policy has 5, the robot file 0"),
    (at("state", "names", value=["a", "b"]), "state.names: the policy has 5, the robot file 2"),
    (at("state", "units", value=["rad"] * 6), "state.units: the policy has 5, the robot file 6"),
    (at("state", "names", value=["a"] * 5), "state names repeat"),
    (at("action", "groups", 0, "names", value=["a", "b"]), "names in all: the policy has 5, the robot file 3"),
    (at("action", "groups", 0, "units", value=["rad"]), "units must have 4 entries"),
    (at("action", "groups", 0, "lower", value=[9.0] * 4), "lower limit must be below"),
    (at("action", "groups", 0, "kind", value="magic"), "kind"),
    (at("action", "groups", 1, "names", value=["elbow"]), "action names repeat"),
    (at("action", "step_s", value=0), "step_s"),
    (at("action", "step_s", value="0.1"), "step_s"),
    (at("action", "execute_steps", value=9), "execute_steps 9 is over the chunk's 8"),
    (lambda robot: robot.pop("action"), "action"),
]


@pytest.mark.parametrize(("change", "message"), MISFITS)
def test_a_robot_that_does_not_fit_is_refused_with_both_sides(source: Path, change: Edit, message: str) -> None:
    robot = copy.deepcopy(policies.robot())
    change(robot)
    with pytest.raises(ContractError, match=f"robot file.*{message}"):
        graph(source, robot)


@pytest.mark.parametrize("text", ["", "7", "- a", "cameras: [", "{" * 2000, "a: &a [*a]", "x: 2020-01-01", "\x00"])
def test_a_file_that_is_no_robot_file_is_refused(source: Path, text: str) -> None:
    path = source.parent / "robot.yaml"
    path.write_text(text)
    with pytest.raises(ContractError, match=r"robot file.*robot\.yaml"):
        build(source, robot=path)
    with pytest.raises(ContractError, match=r"nowhere\.yaml"):
        build(source, robot=path.with_name("nowhere.yaml"))


def test_a_robot_file_for_another_family_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match=r"--robot belongs to a LeRobot policy.*'film_policy'"):
        export(checkpoint, tmp_path / "bundle", robot=policies.write_robot(tmp_path / "robot.yaml"))
