"""Two robots under two namespaces, each with a policy and a gate in processes of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from edgevlm_msgs.msg import GateStatus
from geometry_msgs.msg import TwistStamped
from support import tiny
from support.policy_rig import Camera, PolicyRig, image_message, joints_message, wait_until

from edgevlm_ros.processes import Processes, environment
from edgevlm_ros.stamps import to_ns

NAMES = ("left", "right")
FRONT = tiny.mono_contract().cameras[0]
POLICY = {"autostart": True, "diagnostics_period_s": 0.2, "check_s": 2.0}
GATE = {
    **{"autostart": True, "diagnostics_period_s": 0.2, "deadline_ms": 300.0, "recover_after_s": 0.1},
    "estop_topics": [],
    **{f"axes.{axis}.{limit}": 10.0 for axis in ("dx", "dy") for limit in ("velocity", "acceleration")},
}


class Robot:
    """One robot's cameras, state and ears."""

    def __init__(self, domain: int, name: str, seed: int) -> None:
        self.rig = PolicyRig(domain, name)
        self.twists: list[TwistStamped] = []
        self.statuses: list[GateStatus] = []
        self.rig.node.create_subscription(TwistStamped, "command/twist", self.twists.append, 10)
        self.rig.node.create_subscription(GateStatus, "gate_status", self.statuses.append, 10)
        self._pixels = tiny.image(FRONT, seed)
        self._camera = Camera(self._send, self.rig.now_ns)
        self._camera.__enter__()

    def _send(self, stamp_ns: int) -> None:
        self.rig.send("joint_states", joints_message({"x": 0.1, "y": -0.2, "grip": 0.3}, stamp_ns))
        self.rig.send("front/image_raw", image_message(self._pixels, "rgb8", stamp_ns))

    def follows(self) -> bool:
        return bool(self.statuses) and self.statuses[-1].mode == "follow"

    def close(self) -> None:
        self._camera.__exit__(None, None, None)
        self.rig.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.mono(tmp_path_factory.mktemp("bundles") / "mono")


@pytest.fixture(scope="module")
def processes(domain: int, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    variables = environment(domain)
    variables["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), variables.get("PYTHONPATH", "")])
    with Processes(tmp_path_factory.mktemp("two"), variables) as started:
        for name in NAMES:
            for node, settings in (("policy_node", POLICY), ("command_gate", GATE)):
                parameters: dict[str, Any] = {**settings, "bundle": str(bundle)}
                started.start(f"{name}-{node}", f"edgevlm_ros.{node}", parameters=parameters, namespace=name)
        yield started


@pytest.fixture(scope="module")
def robots(domain: int, processes: Processes) -> Iterator[tuple[Robot, Robot]]:
    robots = (Robot(domain, "left", 1), Robot(domain, "right", 7))
    yield robots
    for robot in robots:
        robot.close()


def test_each_follows_its_own_instruction(robots: tuple[Robot, Robot]) -> None:
    for robot, text in zip(robots, tiny.COMMANDS, strict=False):
        wait_until(lambda robot=robot, text=text: robot.rig.say(text).accepted, 20)
    for robot in robots:
        wait_until(robot.follows, 20)
    for robot, text in zip(robots, tiny.COMMANDS, strict=False):
        robot.rig.chunks.clear()
        robot.twists.clear()
        wait_until(lambda robot=robot: len(robot.rig.chunks) > 5 and len(robot.twists) > 5)
        assert {chunk.instruction for chunk in robot.rig.chunks} == {text}
    left, right = ({tuple(chunk.values) for chunk in robot.rig.chunks} for robot in robots)
    assert left and right and not left & right


def test_one_that_loses_its_policy_holds_and_the_other_goes_on(
    robots: tuple[Robot, Robot], processes: Processes
) -> None:
    left, right = robots
    wait_until(lambda: left.follows() and right.follows(), 20)
    killed_ns = left.rig.now_ns()
    processes.kill("left-policy_node")
    wait_until(lambda: left.statuses[-1].mode == "hold", 2)
    assert left.statuses[-1].cause in ("heartbeat_missing", "chunk_missing", "chunk_spent", "chunk_expired")
    time.sleep(0.5)
    after = [status for status in right.statuses if to_ns(status.header.stamp) > killed_ns]
    assert len(after) > 5 and {status.mode for status in after} == {"follow"}
