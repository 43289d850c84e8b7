"""The unit files that are shipped: systemd takes them, and they keep what the guide promises."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
from support.blocks import ROOT, blocks

UNITS = ROOT / "ros2_ws/src/edgevlm_ros/systemd"
NODES = {"relay": "command_relay", "gate": "command_gate", "policy": "policy_node"}


def unit(path: Path) -> configparser.ConfigParser:
    read = configparser.ConfigParser(interpolation=None, strict=False)
    read.optionxform = str  # type: ignore[assignment, method-assign]
    read.read_string(path.read_text())
    return read


def service(name: str) -> configparser.ConfigParser:
    return unit(UNITS / f"edgevlm-{name}.service")


def test_systemd_takes_every_unit() -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze (Debian and Ubuntu: systemd)")
    files = sorted(map(str, (*UNITS.glob("*.service"), *UNITS.glob("*.target"))))
    assert len(files) == len(NODES) + 1
    done = subprocess.run([analyze, "verify", *files], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_takes_the_unit_of_the_guide(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze (Debian and Ubuntu: systemd)")
    (text,) = [block.text for block in blocks("ini") if block.page == "docs/systemd.md"]
    file = tmp_path / "edgevlm.service"
    file.write_text(text)
    done = subprocess.run([analyze, "verify", str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(("name", "node"), NODES.items())
def test_a_unit_runs_its_node_as_the_main_process(name: str, node: str) -> None:
    """Signals and notifications are of the main process: the shell must become the node."""
    command = service(name)["Service"]["ExecStart"]
    assert f' && exec "$EDGEVLM_INSTALL/edgevlm_ros/lib/edgevlm_ros/{node}" --ros-args' in command
    assert f'"{node}"' in (ROOT / "ros2_ws/src/edgevlm_ros/setup.py").read_text()


@pytest.mark.parametrize("name", NODES)
def test_a_node_ends_in_order_and_is_started_again_after_a_fault(name: str) -> None:
    section = service(name)["Service"]
    assert (section["KillSignal"], section["Restart"], section["Type"]) == ("SIGINT", "on-failure", "notify")
    assert int(section["TimeoutStopSec"]) > 4.5, "a relay that ends passes on for up to 4.5 s what the gate brakes with"
    assert int(section["WatchdogSec"]) >= 5, "a node reports once a second"
    assert section["RestartPreventExitStatus"] == "2", "a wrong parameter file does not mend itself"
    assert service(name)["Unit"]["StartLimitIntervalSec"] == "0"


def test_the_latch_lies_where_a_reboot_leaves_it() -> None:
    section = service("gate")["Service"]
    assert section["Environment"] == f"ROS_HOME=/var/lib/{section['StateDirectory']}"


def test_the_policy_ends_first_and_the_relay_last() -> None:
    """systemd stops in the reverse of the order in which it starts."""
    assert "edgevlm-relay.service" in service("gate")["Unit"]["After"].split()
    assert "edgevlm-gate.service" in service("policy")["Unit"]["After"].split()
    for name in NODES:
        assert service(name)["Unit"]["PartOf"] == "edgevlm.target" == service(name)["Install"]["WantedBy"]
        assert not service(name)["Unit"].keys() & {"Requires", "BindsTo"}, "a policy that ends must not end the gate"
