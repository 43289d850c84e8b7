"""recorder as a process: what was published is in the file, replayable as it is; kill -9 leaves what was flushed."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from edgevlm_msgs.msg import GateStatus  # noqa: E402
from geometry_msgs.msg import TwistStamped  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from sensor_msgs.msg import Image, Imu, JointState  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from edgevlm.cli.app import app  # noqa: E402
from edgevlm.data import read_log  # noqa: E402
from edgevlm.data.container import Container  # noqa: E402
from edgevlm.errors import ContractError, OutputError  # noqa: E402
from edgevlm_ros.processes import Processes, environment  # noqa: E402
from edgevlm_ros.qos import LATCHED, SENSOR  # noqa: E402

FRAMES = 12


class Robot:
    """Publishes what tests/support's one-camera contract wants, under the namespace `arm`."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("robot", namespace="/arm", context=self.context)
        self.camera = self.node.create_publisher(Image, "front/image_raw", SENSOR)
        self.joints = self.node.create_publisher(JointState, "joint_states", SENSOR)
        self.instruction = self.node.create_publisher(String, "instruction", LATCHED)
        self.twist = self.node.create_publisher(TwistStamped, "command/twist", 10)
        self.status = self.node.create_publisher(GateStatus, "gate_status", 10)
        self.imu = self.node.create_publisher(Imu, "imu", 10)
        self.frames: list[tuple[int, Any]] = []
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def heard(self) -> bool:
        """Whether somebody subscribes to everything but the IMU."""
        return all(
            publisher.get_subscription_count()
            for publisher in (self.camera, self.joints, self.instruction, self.twist, self.status)
        )

    def act(self, frames: int = FRAMES) -> None:
        """Tell what to do, then frames at 10 Hz, each after a state of the same stamp."""
        camera = tiny.mono_contract().cameras[0]
        self.instruction.publish(String(data=tiny.COMMANDS[0]))
        time.sleep(0.1)
        for number in range(frames):
            now = self.node.get_clock().now()
            joints = JointState(name=["grip", "y", "x"], position=[0.5, -0.1, number / 100])
            joints.header.stamp = now.to_msg()
            self.joints.publish(joints)
            picture = tiny.image(camera, number)
            image = Image(height=12, width=16, encoding="rgb8", step=48, data=picture.tobytes())
            image.header.stamp = now.to_msg()
            self.camera.publish(image)
            self.frames.append((now.nanoseconds, picture))
            twist = TwistStamped()
            twist.header.stamp = now.to_msg()
            twist.twist.linear.x = float(number)
            self.twist.publish(twist)
            self.status.publish(GateStatus(schema_version=1, number=number, mode="hold", values=[0.25]))
            self.imu.publish(Imu())
            time.sleep(0.1)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        self.thread.join()


def wait_until(true: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def robot(domain: int) -> Iterator[Robot]:
    robot = Robot(domain)
    yield robot
    robot.close()


@pytest.fixture
def processes(domain: int, tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path / "logs", environment(domain)) as running:
        yield running


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny.mono(tmp_path / "bundle")


def start(processes: Processes, **parameters: Any) -> None:
    processes.start("recorder", "edgevlm_ros.recorder", namespace="arm", parameters=parameters)


def messages(path: Path, topic: str) -> list[bytes]:
    container = Container(path)
    return [container.read(ref) for ref in container.select(topic)]


def test_what_was_published_is_read_back_and_replayed(
    robot: Robot, processes: Processes, bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run.mcap"
    start(processes, bundle=str(bundle), output=str(output))
    wait_until(robot.heard)
    assert not output.exists() and output.with_name("run.mcap.part").exists()
    robot.act()
    processes["recorder"].send_signal(signal.SIGINT)
    assert processes["recorder"].wait(10) == 0, processes.log("recorder")
    assert sorted(path.name for path in tmp_path.glob("run*")) == ["run.mcap", "run.topics.yaml"]

    recording = read_log(output, tiny.mono_contract())  # with the map beside it
    assert recording.warnings == () and [e.instruction for e in recording.episodes] == [tiny.COMMANDS[0]]
    observations = list(recording.observations(recording.episodes[0]))
    assert [(o.frames["front"].stamp_ns, o.frames["front"].value.tobytes()) for o in observations] == [
        (stamp_ns, picture.tobytes()) for stamp_ns, picture in robot.frames
    ]
    states = [o.state.value.tolist() for o in observations if o.state]
    assert states == [pytest.approx([number / 100, -0.1, 0.5]) for number in range(FRAMES)]

    twists = [deserialize_message(data, TwistStamped) for data in messages(output, "/arm/command/twist")]
    assert [twist.twist.linear.x for twist in twists] == list(range(FRAMES))
    statuses = [deserialize_message(data, GateStatus) for data in messages(output, "/arm/gate_status")]
    assert [(status.number, status.mode, list(status.values)) for status in statuses] == [
        (number, "hold", [0.25]) for number in range(FRAMES)
    ]
    assert "/arm/imu" not in Container(output).found

    figures = tmp_path / "figures.json"
    replayed = CliRunner().invoke(
        app,
        ["replay", str(output), "--bundle", str(bundle), "-o", str(tmp_path / "out.mcap"), "--json", str(figures)],
        catch_exceptions=False,
    )
    assert replayed.exit_code == 0, replayed.output
    assert json.loads(figures.read_text())["bundles"]["a"]["acted"] == FRAMES


@pytest.mark.slow
def test_killed_it_leaves_what_was_flushed_to_be_read(
    robot: Robot, processes: Processes, bundle: Path, tmp_path: Path
) -> None:
    output, part = tmp_path / "run.mcap", tmp_path / "run.mcap.part"
    start(processes, bundle=str(bundle), output=str(output), flush_s=0.2)
    wait_until(robot.heard)
    robot.act()
    wait_until(lambda: len(list(Container(part).select("/arm/front/image_raw"))) == FRAMES)  # flushed
    processes.kill("recorder")
    assert not output.exists()
    part.rename(output)  # the topic map is there already, under the name that the recording was to have
    recording = read_log(output, tiny.mono_contract())
    assert "is cut" in recording.warnings[0]
    assert len(recording.episodes[0]) == FRAMES

    start(processes, bundle=str(bundle), output=str(output))  # a recording is never overwritten
    assert processes["recorder"].wait(20) == OutputError.exit_code
    assert "choose another `output`" in processes.log("recorder")
    assert read_log(output, tiny.mono_contract()).episodes


def test_any_type_is_recorded_with_its_installed_definition(robot: Robot, processes: Processes, tmp_path: Path) -> None:
    output = tmp_path / "some.mcap"
    start(processes, output=str(output), topics_record=["im*"])
    wait_until(lambda: bool(robot.imu.get_subscription_count()))
    robot.act(3)
    processes["recorder"].send_signal(signal.SIGTERM)
    assert processes["recorder"].wait(10) == 0, processes.log("recorder")
    container = Container(output)
    assert container.found == {"/arm/imu": "sensor_msgs/msg/Imu"}
    assert len(messages(output, "/arm/imu")) == 3
    text = next(iter(container.channels.values())).schema.data.decode()
    assert "MSG: geometry_msgs/Vector3\n" in text and "MSG: builtin_interfaces/Time\n" in text
    assert not np.any([path.suffix == ".yaml" for path in tmp_path.iterdir()])  # no bundle, no map


def test_without_anything_to_record_it_refuses(processes: Processes) -> None:
    start(processes)
    assert processes["recorder"].wait(20) == ContractError.exit_code
    assert "nothing to record" in processes.log("recorder")
