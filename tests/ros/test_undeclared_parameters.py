"""Overrides that nobody declares are named with the nearest right name; a file shared by all nodes is none of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("edgevlm_ros", reason="needs the built workspace: make ros-build")

from edgevlm.errors import ContractError
from edgevlm_ros.declared import NODES
from edgevlm_ros.undeclared_parameters import AXIS, faults, placeholder, refuse_undeclared

GATE = [item.name for item in NODES["command_gate"]]
COLUMNS = [f"axes.{name}.{field}" for name in ("dx", "dy", "dz") for field in AXIS]
EVERYTHING = {
    **{item.name: item.default for items in NODES.values() for item in items},
    **dict.fromkeys(COLUMNS, 1.0),
    "orientations.0.state": ["qx", "qy", "qz", "qw"],
    "use_sim_time": True,
    "start_type_description_service": True,
    "qos_overrides./front/image_raw.subscription.reliability": "reliable",
    "qos_overrides./hand_pose.publisher.depth": 100,
}


@pytest.mark.parametrize("node", NODES)
def test_a_file_that_all_nodes_share_is_taken_by_each(node: str) -> None:
    own = [item.name for item in NODES[node]]
    assert faults(EVERYTHING, own) == []


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("deadlin_ms", "deadline_ms"),
        ("axes.dx.positon", "axes.dx.position"),
        ("axes.dxx.velocity", "axes.dx.velocity"),
        ("axis.dx.velocity", "axes.dx.velocity"),
        ("orientation.0.velocity", ""),
        ("fallback.estopp", "fallback.estop"),
        ("fallbacks.chunk_missing", "fallback.chunk_missing"),
        ("autostrat", "autostart"),
        ("match.tolerance", "match.tolerance_s"),  # another node's
        ("use_simtime", "use_sim_time"),
        ("Deadline_ms", "deadline_ms"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest_one(name: str, right: str) -> None:
    with pytest.raises(ContractError) as refused:
        refuse_undeclared({name: 1.0, "deadline_ms": 50.0}, [*GATE, *COLUMNS], COLUMNS)
    assert name in str(refused.value)
    assert f"did you mean {right}?" in str(refused.value) or not right
    assert "deadline_ms is" not in str(refused.value)


def test_an_axis_that_the_contract_has_not_is_refused_with_those_it_has() -> None:
    (fault,) = faults({"axes.gripper.velocity": 1.0}, GATE, COLUMNS)
    assert "axes.gripper.velocity" in fault
    assert "dx, dy, dz" in fault
    assert faults({"axes.gripper.velocity": 1.0}, GATE) == []  # a node that does not know the contract


def test_a_node_that_knows_no_contract_still_checks_the_form() -> None:
    (fault,) = faults({"axes.dx.positon": 1.0}, [item.name for item in NODES["policy_node"]])
    assert "did you mean axes.dx.position?" in fault


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("qos_overrides./front/image_raw.subscripton.reliability", "reliable", "publisher or subscription"),
        ("qos_overrides.front/image_raw.subscription.reliability", "reliable", "full topic name"),
        ("qos_overrides./front/image_raw.subscription.reliabilty", "reliable", "reliability"),
        ("qos_overrides./front/image_raw.subscription.reliability", "relaible", "best_effort"),
        ("qos_overrides./front/image_raw.subscription.depth", "ten", "whole number"),
        ("qos_overrides./front/image_raw.subscription.durability", "transient_local", "policies"),
    ],
)
def test_a_quality_of_service_that_rclpy_would_ignore_is_refused(name: str, value: Any, what: str) -> None:
    (fault,) = faults({name: value}, GATE)
    assert what in fault


@pytest.mark.parametrize(
    "value", ["<your limit>", "${LIMIT}", "$(var limit)", "{{ limit }}", "TODO", "FILL ME", "change_me", "???", "@V@"]
)
def test_a_placeholder_is_no_value(value: str) -> None:
    (fault,) = faults({"bundle": value}, GATE)
    assert "placeholder" in fault


@pytest.mark.parametrize("value", ["", "/data/policy-int8", "a < b > c", "What is in <image>?", "todos.mcap", 3, None])
def test_ordinary_values_are_no_placeholders(value: Any) -> None:
    assert not placeholder(value)


@given(st.sampled_from(sorted(EVERYTHING)), st.integers(0, 200), st.sampled_from("abcxyz_.019 "))
def test_one_character_more_is_never_taken(name: str, place: int, character: str) -> None:
    at = place % (len(name) + 1)
    wrong = name[:at] + character + name[at:]
    if name.startswith("qos_overrides./") or name.startswith("orientations."):
        return  # another topic or another orientation may exist
    assert faults({wrong: EVERYTHING[name]}, GATE, COLUMNS) or wrong in EVERYTHING
