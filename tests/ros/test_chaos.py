"""Some rows of the chaos suite with real processes, with the gate and without it. `make chaos` plays all rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")
pytest.importorskip("mujoco", reason="needs the extra sim")

from ros.chaos.play import run_patiently
from ros.chaos.rows import BY_NAME, CI

pytestmark = pytest.mark.slow
FAULTS = [name for name in CI if name != "control"]


def play(bundle: Path, domain: int, work: Path, names: Sequence[str], *, enabled: bool) -> dict[str, Any]:
    return run_patiently([BY_NAME[name] for name in names], bundle, domain, work, enabled=enabled)


@pytest.fixture(scope="module")
def guarded(domain: int, int8: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return play(int8, domain, tmp_path_factory.mktemp("on"), CI, enabled=True)


@pytest.fixture(scope="module")
def bare(domain: int, int8: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return play(int8, domain, tmp_path_factory.mktemp("off"), CI, enabled=False)


def _row(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in report["rows"] if row["row"] == name)


@pytest.mark.parametrize("name", CI)
def test_with_the_gate_no_command_is_ever_bad(guarded: dict[str, Any], name: str) -> None:
    row = _row(guarded, name)
    assert row["violations"] == {}, row["first_violation"]
    assert row["passed"], row


def test_with_the_gate_no_command_is_bad_between_the_rows(guarded: dict[str, Any]) -> None:
    assert guarded["strays"] == []


@pytest.mark.parametrize("name", FAULTS)
def test_without_the_gate_the_same_row_puts_bad_commands_on_the_wire(bare: dict[str, Any], name: str) -> None:
    row = _row(bare, name)
    assert row["passed"], f"expected some of {row['unsafe']}, found {row['violations']}"


def test_without_a_fault_the_wire_is_clean_without_the_gate(bare: dict[str, Any]) -> None:
    """Control: it is the faults that the judge finds, not the missing gate."""
    row = _row(bare, "control")
    assert row["violations"] == {}, row["first_violation"]
