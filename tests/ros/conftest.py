"""What tests of real nodes share: a domain of their own, so that nothing else on the machine is heard."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def domain() -> int:
    """A ROS_DOMAIN_ID that nobody else here uses."""
    pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
    pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")
    processes = pytest.importorskip("edgevlm_ros.processes", reason="needs the built workspace: make ros-build")
    domain: int = processes.free_domain()
    return domain


@pytest.fixture(scope="session")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated robot's bundle, as `make demo` exports it."""
    exporter = pytest.importorskip("edgevlm_export.exporter", reason="needs the extra export")
    tabletop = Path(__file__).parents[2] / "examples" / "tabletop"
    root = tmp_path_factory.mktemp("tabletop") / "int8"
    exporter.export(tabletop / "checkpoint", root, precision="int8", calibration=tabletop / "log.mcap")
    return root
