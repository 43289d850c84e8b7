"""A node tells systemd that it is up, that it goes on and that it ends; one whose executor hangs is silent."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from support import tiny

from edgevlm_ros.lifecycle_node import notify
from edgevlm_ros.processes import Processes, environment

START_S, BEAT_S = 20.0, 0.1


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(START_S)
        yield channel


def states(manager: socket.socket, seconds: float) -> list[str]:
    """What arrives in the next `seconds`."""
    heard, end = [], time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        manager.settimeout(left)
        try:
            heard.append(manager.recv(256).decode())
        except TimeoutError:
            break
    return heard


def test_a_node_is_up_then_goes_on_then_ends(tmp_path: Path, domain: int, manager: socket.socket) -> None:
    settings = {**environment(domain), "NOTIFY_SOCKET": manager.getsockname(), "ROS_HOME": str(tmp_path)}
    with Processes(tmp_path / "logs", settings) as processes:
        bundle = str(tiny.mono(tmp_path / "mono"))
        node = processes.start(
            "gate",
            "edgevlm_ros.command_gate",
            parameters={"bundle": bundle, "diagnostics_period_s": BEAT_S},
        )
        assert manager.recv(256) == b"READY=1", processes.log("gate")
        assert manager.recv(256) == b"WATCHDOG=1", processes.log("gate")
        node.send_signal(signal.SIGSTOP)  # as one whose executor hangs
        time.sleep(2 * BEAT_S)
        states(manager, 0.01)
        assert states(manager, 5 * BEAT_S) == []
        node.send_signal(signal.SIGCONT)
        assert manager.recv(256) == b"WATCHDOG=1"
        node.send_signal(signal.SIGINT)
        assert node.wait(START_S) == 0
        assert states(manager, 1.0)[-1] == "STOPPING=1"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/notify", "@edgevlm-nobody-listens"])
def test_a_manager_that_is_not_there_is_no_fault(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def test_an_abstract_address_is_one_of_linux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = f"edgevlm-{tmp_path.name}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("\0" + name)
        channel.settimeout(START_S)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("READY=1")
        assert channel.recv(256) == b"READY=1"
