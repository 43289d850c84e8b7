"""Emergency stops over real DDS: whoever else publishes, restarts or falls silent, only release AND re-arm end them."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

import rclpy
from edgevlm_msgs.msg import ActionChunk
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.msg import Transition
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from support import tiny
from support.gate_rig import PERIOD_S, Rig, wait_until

from edgevlm.bundle import open_bundle
from edgevlm.manifest.schema import PolicyManifest
from edgevlm_ros.processes import Processes, environment
from edgevlm_ros.qos import LATCHED, RELIABLE

PARAMETERS: dict[str, Any] = {
    "autostart": True,
    "autostart_period_s": 0.1,
    "diagnostics_period_s": 0.1,
    "command_period_s": PERIOD_S,
    "command_valid_s": 0.1,
    "recover_after_s": 0.0,
    **{f"axes.{axis}.velocity": 0.2 for axis in ("dx", "dy")},
    **{f"axes.{axis}.acceleration": 0.5 for axis in ("dx", "dy")},
}
READY_S = 20.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.mono(tmp_path_factory.mktemp("bundles") / "mono")


class Robot:
    """A gate in a namespace, the rig around it, and more publishers by the names of their nodes."""

    def __init__(self, domain: int, bundle: Path, directory: Path, space: str) -> None:
        self.home = directory / "home"
        self.processes = Processes(directory / "logs", {**environment(domain), "ROS_HOME": str(self.home)})
        self._bundle, self._space = bundle, space
        opened = open_bundle(bundle)
        topics = {"command/twist": TwistStamped, "command/gripper": JointState}
        self.rig = Rig(
            domain, opened.manifest.require(PolicyManifest).contract, opened.sha256, topics, namespace=f"/{space}"
        )
        self.rig.joints, self.rig.row = {"x": 0.0, "y": 0.0, "grip": 0.0}, [0.002, 0.0, 1.0]
        self._nodes: dict[str, Any] = {}

    def start(self, **parameters: Any) -> None:
        settings = {**PARAMETERS, "bundle": str(self._bundle), **parameters}
        self.processes.start("gate", "edgevlm_ros.command_gate", parameters=settings, namespace=self._space)

    def restart(self, **parameters: Any) -> None:
        """kill -9, and as a supervisor starts it again."""
        self.processes.kill("gate", signal.SIGKILL)
        self.rig.received.clear()
        self.start(**parameters)

    def publisher(self, node: str, topic: str = "estop", profile: QoSProfile = RELIABLE) -> Publisher:
        speaker = rclpy.create_node(node, context=self.rig.context, namespace=f"/{self._space}")
        self._nodes[node] = speaker
        publisher = speaker.create_publisher(Bool, topic, profile)
        wait_until(lambda: publisher.get_subscription_count() > 0, READY_S)
        return publisher

    def vanish(self, node: str) -> None:
        self._nodes.pop(node).destroy_node()

    def follows(self) -> None:
        wait_until(lambda: self.rig.doing("follow"), READY_S)

    def stops(self) -> None:
        wait_until(lambda: self.rig.doing("stop", "estop"), READY_S)

    def stays(self, seconds: float = 0.5) -> None:
        """The stop is in force, and no command is on the wire."""
        time.sleep(0.1)
        begin = time.monotonic()
        time.sleep(seconds)
        assert self.rig.doing("stop", "estop")
        assert not self.rig.of("command/twist", begin)

    def refuses(self, because: str) -> None:
        """Each re-arm is refused; in the end, once the button was heard, for this."""

        def refused() -> bool:
            answer = self.rig.rearm()
            assert not answer.success
            return because in answer.message

        wait_until(refused, READY_S)

    def rearms(self) -> None:
        """A re-arm succeeds as soon as the release was heard."""
        wait_until(lambda: self.rig.rearm().success, READY_S)

    def latched(self) -> bool:
        (path,) = (self.home / "edgevlm" / "estop").glob("*.json")
        return bool(json.loads(path.read_text())["latched"])

    def close(self) -> None:
        for node in list(self._nodes):
            self.vanish(node)
        self.processes.close()
        self.rig.close()


@pytest.fixture
def robot(domain: int, bundle: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Robot]:
    robot = Robot(domain, bundle, tmp_path, f"r{abs(hash(request.node.name)) % 10**8}")
    yield robot
    robot.close()


def test_another_publishers_release_releases_nothing(robot: Robot) -> None:
    robot.start()
    robot.follows()
    robot.rig.pressed = None
    robot.rig.press(True)
    robot.rig.pressed = None
    robot.stops()
    other = robot.publisher("pendant")
    for _ in range(10):
        other.publish(Bool(data=False))
        time.sleep(0.05)
    robot.refuses(f"{robot.rig.node.get_namespace()}/pendant")
    robot.stays()
    wait_until(lambda: "/pendant" in robot.rig.messages["rivals"], READY_S)
    robot.vanish("pendant")
    wait_until(lambda: "2 publishers" not in robot.rig.rearm().message, READY_S)
    robot.stays()
    robot.rig.press(False)
    robot.rearms()
    robot.follows()


def test_a_gate_that_is_killed_and_started_again_while_pressed_stays_stopped(robot: Robot) -> None:
    robot.start()
    robot.follows()
    robot.rig.press(True)
    robot.stops()
    assert robot.latched()
    robot.restart()
    robot.stops()
    assert robot.rig.of("command/stop")[-1].data
    robot.rig.press(False)
    robot.stays()
    assert robot.rig.rearm().success
    robot.follows()
    assert not robot.latched()
    robot.restart()
    robot.follows()


def test_lifecycle_does_not_end_a_stop(robot: Robot) -> None:
    robot.start()
    robot.follows()
    robot.rig.press(True)
    robot.stops()
    robot.rig.press(False)
    for transitions in (
        ("DEACTIVATE", "ACTIVATE"),
        ("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE"),
    ):
        for transition in transitions:
            assert robot.rig.change(getattr(Transition, f"TRANSITION_{transition}"))
        robot.rig.received.clear()
        robot.stops()
        robot.stays()
    assert robot.rig.rearm().success
    robot.follows()


def test_pressed_while_inactive_counts(robot: Robot) -> None:
    robot.start()
    robot.follows()
    assert robot.rig.change(Transition.TRANSITION_DEACTIVATE)
    robot.rig.press(True)
    wait_until(robot.latched)
    robot.rig.press(False)
    assert robot.rig.change(Transition.TRANSITION_ACTIVATE)
    robot.rig.received.clear()
    robot.stops()
    robot.stays()


@pytest.mark.parametrize(
    "profile",
    [pytest.param(RELIABLE, id="volatile"), pytest.param(LATCHED, id="transient_local", marks=pytest.mark.slow)],
)
def test_each_button_counts_by_itself_and_silence_as_pressed(robot: Robot, profile: QoSProfile) -> None:
    robot.start(estop_topics=["estop", "pendant/estop"])
    robot.stops()
    time.sleep(3.5)
    robot.stays()
    assert "pendant/estop is silent, nobody publishes it" in robot.rig.rearm().message
    pendant = robot.publisher("pendant", "pendant/estop", profile)
    pendant.publish(Bool(data=False))
    robot.stays()
    robot.rearms()
    robot.follows()
    pendant.publish(Bool(data=True))
    robot.stops()
    assert "pendant/estop is pressed" in robot.rig.rearm().message
    pendant.publish(Bool(data=False))
    robot.rearms()
    robot.follows()
    robot.vanish("pendant")
    robot.stops()
    assert "nobody publishes it" in robot.rig.rearm().message


def test_what_a_latched_button_sent_before_the_gate_started_is_heard(robot: Robot) -> None:
    robot.rig.pressed = None
    robot.rig.node.destroy_publisher(robot.rig._estop)
    publisher = robot.rig.node.create_publisher(Bool, "estop", LATCHED)
    publisher.publish(Bool(data=False))
    robot.start()
    robot.follows()
    publisher.publish(Bool(data=True))
    robot.stops()
    robot.restart()
    robot.stops()
    robot.refuses("estop is pressed")
    publisher.publish(Bool(data=False))
    robot.rearms()
    robot.follows()


def test_a_best_effort_button_is_not_heard_and_counts_as_pressed(robot: Robot) -> None:
    robot.rig.pressed = None
    robot.rig.node.destroy_publisher(robot.rig._estop)
    publisher = robot.rig.node.create_publisher(
        Bool, "estop", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    )
    robot.start()
    robot.stops()
    for _ in range(20):
        publisher.publish(Bool(data=False))
        time.sleep(0.05)
    robot.stays()
    assert "silent" in robot.rig.rearm().message


def test_a_button_that_misses_its_deadline_stops_the_robot(robot: Robot) -> None:
    robot.start(estop_deadline_ms=300.0)
    robot.follows()
    begin = time.monotonic()
    robot.rig.pressed = None
    robot.stops()
    assert time.monotonic() - begin < 1.0
    robot.rig.pressed = False
    robot.stays()
    assert robot.rig.rearm().success
    robot.follows()


def test_a_robot_without_a_button_says_so_and_follows(robot: Robot) -> None:
    robot.rig.pressed = None
    robot.start(estop_topics=[])
    robot.follows()
    assert "no button stops this gate" in robot.processes.log("gate")


def test_a_broken_latch_file_is_a_stop(robot: Robot) -> None:
    robot.start()
    robot.follows()
    (path,) = (robot.home / "edgevlm" / "estop").glob("*.json")
    robot.processes.kill("gate", signal.SIGKILL)
    path.write_bytes(b"\x00" * 60)
    robot.rig.received.clear()
    robot.start()
    robot.stops()
    robot.stays()
    assert robot.rig.rearm().success
    robot.follows()


def test_a_gate_whose_latch_can_be_stored_nowhere_is_refused(robot: Robot) -> None:
    robot.home.mkdir()
    (robot.home / "edgevlm").write_text("a file where a directory belongs")
    robot.start()
    wait_until(lambda: "set ROS_HOME" in robot.rig.messages.get("state", ""), READY_S)
    assert not robot.rig.of("gate_status")


def test_two_gates_of_one_name_are_refused(robot: Robot) -> None:
    robot.start()
    robot.follows()
    settings = {**PARAMETERS, "bundle": str(robot._bundle)}
    robot.processes.start("second", "edgevlm_ros.command_gate", parameters=settings, namespace=robot._space)
    wait_until(lambda: "another process has it" in robot.processes.log("second"), READY_S)


def test_topics_that_make_no_sense_are_refused(robot: Robot) -> None:
    robot.start(estop_topics=["estop", ""])
    for topics in (["estop", ""], ["estop", "estop"], ["estop", "~/x", "estop"]):
        assert not robot.rig.set("estop_topics", topics)
        got = f"got {topics}"
        wait_until(lambda got=got: got in robot.rig.messages.get("state", ""), READY_S)
        assert "estop_topics: expected" in robot.rig.messages["state"]


def test_a_copied_session_is_noticed_at_once(robot: Robot) -> None:
    robot.start()
    robot.follows()
    time.sleep(0.7)
    other = rclpy.create_node("evil", context=robot.rig.context, namespace=robot.rig.node.get_namespace())
    begin = time.monotonic()
    publisher = other.create_publisher(ActionChunk, "action_chunk", RELIABLE)
    wait_until(lambda: robot.rig.doing("hold", "publisher_conflict"), 2.0)
    assert time.monotonic() - begin < 1.5
    wait_until(lambda: "/evil" in robot.rig.messages["rivals"])
    other.destroy_publisher(publisher)
    other.destroy_node()
    robot.follows()
