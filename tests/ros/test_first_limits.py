"""edgevlm limits: a file that the gate refuses while a value is open, and takes once all are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from support import tiny
from typer.testing import CliRunner

from edgevlm.bundle import open_bundle
from edgevlm.cli.app import app
from edgevlm.gate.first_limits import first_limits
from edgevlm.manifest.contract import ActionGroup, Contract
from edgevlm_ros.gate_parameters import ITEMS, contract_items, gate_limits
from edgevlm_ros.undeclared_parameters import faults

FILLED: Mapping[str, Any] = {
    "position": [-1.0, 1.0],
    "velocity": 0.3,
    "acceleration": 2.0,
    "tracking": 0.2,
    "estop_topics": ["estop"],
}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def parameters(text: str) -> dict[str, Any]:
    return dict(flat(yaml.safe_load(text)["/**/command_gate"]["ros__parameters"]))


def with_groups(*groups: ActionGroup) -> Contract:
    contract = tiny.mono_contract()
    return contract.model_copy(update={"action": contract.action.model_copy(update={"groups": groups})})


def group(kind: str, names: tuple[str, ...], units: tuple[str, ...], **more: Any) -> ActionGroup:
    count = len(names)
    same = {"scale": (1.0,) * count, "offset": (0.0,) * count, "lower": (-0.5,) * count, "upper": (0.5,) * count}
    return ActionGroup(kind=kind, names=names, units=units, **{**same, **more})


CONTRACTS = {
    "the small policy's": tiny.mono_contract(),
    "joints": with_groups(group("joint_position", ("x", "y"), ("m", "m")), group("gripper", ("grip",), ("1",))),
    "a base": with_groups(group("twist", ("x", "y"), ("m", "m"))),
    "a hand": with_groups(
        group("ee_pose", ("x", "y", "rx", "ry", "rz"), ("m", "m", "rad", "rad", "rad"), rotation="rotation_vector")
    ),
}


@pytest.mark.parametrize("name", CONTRACTS)
def test_each_open_value_is_refused_by_name_and_nothing_else(name: str) -> None:
    contract = CONTRACTS[name]
    values = parameters(first_limits(contract))
    own = {item.name for item in ITEMS}
    columns = {item.name for item in contract_items(contract)}
    still_open = sorted(key for key, value in values.items() if value == "??")
    assert still_open and set(values) <= own | columns
    assert faults(values, own, columns) == [f"{key} is still the placeholder '??'" for key in still_open]
    assert columns == set(values) - own | {key for key in columns if key.endswith(".continuous")}  # none is left out


@pytest.mark.parametrize("name", ["the small policy's", "joints", "a base"])
def test_filled_in_it_makes_limits_that_hold_for_the_contract(name: str) -> None:
    contract = CONTRACTS[name]
    assert contract.state is not None
    values = {item.name: item.default for item in (*ITEMS, *contract_items(contract))}
    for key, value in parameters(first_limits(contract)).items():
        last = key.rpartition(".")[2]
        values[key] = value if value != "??" else contract.state.names[0] if last == "state" else FILLED[last]
    limits = gate_limits(values, contract)
    assert len(limits.axes) == sum(len(each.names) for each in contract.action.groups if each.kind != "gripper")


def test_what_the_contract_says_is_filled_in() -> None:
    joints = parameters(first_limits(CONTRACTS["joints"]))
    assert (joints["axes.x.state"], joints["axes.x.position"]) == ("x", [-0.5, 0.5])
    assert joints["axes.x.velocity"] == "??" and "axes.grip.state" not in joints
    assert parameters(first_limits(CONTRACTS["a base"]))["axes.x.velocity"] == 0.5
    step_s = CONTRACTS["the small policy's"].action.step_s
    delta = CONTRACTS["the small policy's"].action.groups[0]
    values = parameters(first_limits(CONTRACTS["the small policy's"]))
    assert values[f"axes.{delta.names[0]}.velocity"] == pytest.approx(delta.upper[0] / step_s)


def test_the_verb_prints_the_file(tmp_path: Path) -> None:
    bundle = tiny.mono(tmp_path / "policy")
    done = CliRunner().invoke(app, ["limits", str(bundle)])
    assert done.exit_code == 0, done.output
    assert first_limits(open_bundle(bundle).manifest.contract, "policy") in done.stdout
    chat = CliRunner().invoke(app, ["limits", str(tiny.dual(tmp_path / "dual"))])
    assert chat.exit_code != 0
