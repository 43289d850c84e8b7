"""The demo in real time: real processes, a success table, and the figures that are promised."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

pytestmark = pytest.mark.slow
PERCENTILES = {"p50", "p95", "p99", "max", "n"}


def demo(bundle: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgevlm_tabletop.ros.demo", str(bundle), "--logs", str(out / "logs")]
    command += ["--json", str(out / "demo.json"), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def test_two_episodes_in_real_time_write_every_figure(int8: Path, tmp_path: Path) -> None:
    ran = demo(int8, tmp_path, "--episodes", "2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads((tmp_path / "demo.json").read_text())
    assert report["episodes"] == 2
    assert report["success_rate"] == 1.0
    for name in ("latency_ms", "command_age_ms", "overhead_ms"):
        assert set(report[name]) == PERCENTILES
        assert report[name]["n"] > 0
        assert 0 < report[name]["p50"] <= report[name]["p99"] <= report[name]["max"]
    assert report["latency_ms"]["p50"] <= report["command_age_ms"]["p50"]
    assert 0 < report["frames_received"] <= report["frames_sent"]
    assert "100.0% of 2 episodes" in ran.stdout
    assert "reach the red puck" in ran.stdout


def test_a_node_that_dies_ends_the_demo_with_the_end_of_its_log(tmp_path: Path) -> None:
    ran = demo(tmp_path / "no-bundle", tmp_path, "--episodes", "1", "--ready", "4")
    assert ran.returncode == 1
    assert "no-bundle" in ran.stderr or "expected policy_node, command_gate to be active" in ran.stderr
    assert not (tmp_path / "demo.json").exists()
