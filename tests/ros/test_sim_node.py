"""The simulated robot's node by itself, four times as fast: what it publishes, what it takes, what it drops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from geometry_msgs.msg import PoseStamped, TwistStamped  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import Image, JointState  # noqa: E402
from std_msgs.msg import Bool, String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from edgevlm_ros.processes import Processes, environment  # noqa: E402
from edgevlm_ros.qos import LATCHED, SENSOR  # noqa: E402
from edgevlm_ros.stamps import to_ns, to_time  # noqa: E402
from edgevlm_tabletop.ros.journal import Record  # noqa: E402

SPEED = 4.0
STEP_NS = 25_000_000


class Probe:
    """Hears all that the robot says; `answer`, when set, is called with the stamp of each pose."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = node = rclpy.create_node("probe", namespace="robot", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(node)
        self.poses: list[PoseStamped] = []
        self.joints: list[JointState] = []
        self.images: list[Image] = []
        self.successes: list[bool] = []
        self.records: list[Record] = []
        self.answer: Callable[[int], None] | None = None
        node.create_subscription(PoseStamped, "hand_pose", self._on_pose, SENSOR)
        node.create_subscription(JointState, "joint_states", self.joints.append, SENSOR)
        node.create_subscription(Image, "front/image_raw", self.images.append, SENSOR)
        node.create_subscription(Bool, "success", lambda message: self.successes.append(message.data), 10)
        node.create_subscription(String, "tabletop_sim/record", self._on_record, LATCHED)
        self._twist = node.create_publisher(TwistStamped, "command/twist", 10)
        self._gripper = node.create_publisher(JointState, "command/gripper", 10)
        self.set = node.create_client(SetParameters, "tabletop_sim/set_parameters")
        self.reset = node.create_client(Trigger, "tabletop_sim/reset")

    def _on_pose(self, message: PoseStamped) -> None:
        self.poses.append(message)
        if self.answer:
            self.answer(to_ns(message.header.stamp))

    def _on_record(self, message: String) -> None:
        self.records.append(Record.model_validate_json(message.data))

    def command(self, stamp_ns: int, x: float, gripper: float) -> None:
        twist, joints = TwistStamped(), JointState(name=["gripper"], position=[gripper])
        twist.header.stamp = joints.header.stamp = to_time(stamp_ns)
        twist.twist.linear.x = x
        self._twist.publish(twist)
        self._gripper.publish(joints)

    def until(self, done: Callable[[], Any], timeout_s: float = 20.0) -> None:
        end = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < end, "nothing came"
            self.executor.spin_once(timeout_sec=0.1)

    def call(self, client: Any, request: Any) -> Any:
        self.until(client.service_is_ready)
        future = client.call_async(request)
        self.until(future.done)
        return future.result()

    def configure(self, **values: Any) -> list[str]:
        """Why each parameter was refused, "" where it was not."""
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        return [result.reason for result in self.call(self.set, SetParameters.Request(parameters=parameters)).results]

    def episode(self, **values: Any) -> Record:
        """Run one, from a reset to its record."""
        assert set(self.configure(**values)) <= {""}
        known = len(self.records)
        assert self.call(self.reset, Trigger.Request()).success
        self.until(lambda: len(self.records) > known)
        return self.records[-1]

    def close(self) -> None:
        self.executor.remove_node(self.node)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture(scope="module")
def probe(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    with (
        pytest.MonkeyPatch.context() as patch,
        Processes(tmp_path_factory.mktemp("sim"), environment(domain)) as processes,
    ):
        for name, value in environment(domain).items():
            patch.setenv(name, value)
        processes.start(
            "sim",
            "edgevlm_tabletop.ros.sim_node",
            parameters={"mode": "scaled", "speed": SPEED, "pause_s": 0.3},
            namespace="robot",
        )
        probe = Probe(domain)
        yield probe
        probe.close()
        processes.check()


def test_before_the_first_reset_it_shows_itself_and_stands_still_whatever_is_commanded(probe: Probe) -> None:
    probe.answer = lambda stamp_ns: probe.command(stamp_ns, 0.2, 1.0)
    probe.until(lambda: len(probe.images) >= 8)
    probe.answer = None
    stamps = [to_ns(message.header.stamp) for message in probe.poses]
    assert all(b > a and (b - a) % STEP_NS == 0 for a, b in pairwise(stamps))
    frames = [to_ns(message.header.stamp) for message in probe.images]  # the network may lose some
    assert all(b > a and (b - a) % (4 * STEP_NS) == 0 for a, b in pairwise(frames))
    assert len({message.pose.position.x for message in probe.poses}) == 1
    image = probe.images[-1]
    assert (image.height, image.width, image.encoding, image.step) == (240, 320, "rgb8", 960)
    assert len(set(image.data[:3000])) > 1, "a picture, not one colour"
    assert {message.header.frame_id for message in probe.poses} == {"base"}


def test_parameters_that_make_no_episode_are_refused_with_those_that_do(probe: Probe) -> None:
    (reason,) = probe.configure(command="fly")
    assert "expected one of reach the red puck" in reason and "'fly'" in reason
    assert "expected one of plain, occluded" in probe.configure(variant="upside down")[0]
    assert probe.configure(mode="real_time")[0] != ""
    assert probe.configure(seed=-1)[0] != ""
    assert probe.configure(seed=5, command="open the drawer") == ["", ""]


def test_what_is_late_or_not_finite_is_dropped_and_the_robot_rests(probe: Probe) -> None:
    probe.answer = lambda stamp_ns: probe.command(stamp_ns - 5 * STEP_NS, 0.2, 0.0)
    late = probe.episode(seed=3, command="lift the blue puck")
    assert late.rested == late.steps == 200
    assert late.dropped["twist.expired"] > 100
    assert set(late.dropped) <= {"twist.expired", "gripper.expired", "twist.before_reset", "gripper.before_reset"}
    probe.answer = lambda stamp_ns: probe.command(stamp_ns, math.nan, math.inf)
    broken = probe.episode()
    probe.answer = None
    assert broken.rested == 200
    assert broken.dropped["twist.not_finite"] > 100 and broken.dropped["gripper.not_finite"] > 100
    assert (late.sha256, late.success) == (broken.sha256, False)


def test_what_is_valid_moves_the_hand_and_between_episodes_there_is_silence(probe: Probe) -> None:
    probe.answer = lambda stamp_ns: probe.command(stamp_ns, 0.1, 0.0)
    probe.poses.clear()
    moved = probe.episode(seed=3, command="lift the blue puck")
    probe.answer = None
    assert moved.rested < 100
    assert probe.poses[-1].pose.position.x > probe.poses[0].pose.position.x + 0.05
    heard = len(probe.poses)
    probe.executor.spin_once(timeout_sec=0.3)
    assert len(probe.poses) == heard
    probe.episode()
    gap_ns = to_ns(probe.poses[heard].header.stamp) - to_ns(probe.poses[heard - 1].header.stamp)
    assert gap_ns >= 5_000_000_000
    assert probe.successes == []
