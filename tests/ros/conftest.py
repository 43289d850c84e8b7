"""What tests of real nodes share: a domain of their own, so that nothing else on the machine is heard."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Modules that start no node, or whose claims hold however busy the machine is. The times of all others count.
IN_PARALLEL = {
    "test_contract_check.py",
    "test_estop.py",
    "test_first_limits.py",
    "test_gate_messages.py",
    "test_interfaces.py",
    "test_node_start.py",
    "test_parameter_files.py",
    "test_policy_speed.py",
    "test_publisher_conflicts.py",
    "test_rclpy_names.py",
    "test_recorded_messages.py",
    "test_recorder.py",
    "test_undeclared_parameters.py",
    "test_vlm_node.py",
}


@pytest.hookimpl(tryfirst=True)  # before -m is judged
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and item.path.name not in IN_PARALLEL:
            item.add_marker(pytest.mark.alone)


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
