"""policy_node with another robot's contract and nothing but its YAML, and with a simulated clock that starts again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from edgevlm_msgs.action import ExecuteInstruction
from rosgraph_msgs.msg import Clock
from second_robot import robot
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String
from support import tiny
from support.policy_rig import Camera, PolicyRig, image_message, joints_message, wait_until
from typer.testing import CliRunner

import edgevlm
from edgevlm.cli.app import app
from edgevlm.images.encodings import decode
from edgevlm.manifest.contract import SECOND_NS, Observation, Stamped
from edgevlm.options import RuntimeOptions
from edgevlm_ros.processes import Processes, environment
from edgevlm_ros.stamps import to_ns, to_time

QUICK = {"diagnostics_period_s": 0.1, "check_s": 1.0}
ONE_THREAD = RuntimeOptions(intra_threads=1)


@pytest.fixture(scope="module")
def processes(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with Processes(tmp_path_factory.mktemp("robots"), environment(domain)) as started:
        yield started


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32/, the bundle, and topics.yaml."""
    folder = tmp_path_factory.mktemp("second")
    robot.write_checkpoint(folder / "checkpoint")
    (folder / "topics.yaml").write_text(robot.MAP)
    exported = CliRunner().invoke(app, ["export", f"{folder}/checkpoint", "-o", f"{folder}/fp32"])
    assert exported.exit_code == 0, exported.output
    return folder


class SecondRobot:
    """Sends what the second robot's drivers send, and remembers what was true."""

    def __init__(self, rig: PolicyRig) -> None:
        self._rig, self._steps, self._index = rig, [step for task in robot.tasks() for step in task.steps], 0
        self.sent: dict[int, tuple[robot.Step, Any]] = {}  # stamp of the left camera -> what was true, the joints

    def send(self, stamp_ns: int) -> None:
        step = self._steps[self._index % len(self._steps)]
        self._index += 1
        angles = dict(zip(robot.NAMES_ON_THE_ROBOT.values(), np.degrees(step.joints_rad), strict=True))
        joints = {name: angles.get(name, 777.0) for name in robot.ORDER_ON_THE_ROBOT}
        wrist = CompressedImage(format="rgb8; jpeg compressed bgr8", data=step.wrist_jpeg)
        wrist.header.stamp = to_time(stamp_ns + 7_000_000)
        left = np.ascontiguousarray(step.left_rgb[:, :, ::-1])
        self.sent[stamp_ns] = step, [float(angles[robot.NAMES_ON_THE_ROBOT[name]]) for name in robot.JOINTS]
        topics = {key: topic.lstrip("/") for key, topic in robot.TOPICS.items()}
        self._rig.send(topics["joints"], joints_message(joints, stamp_ns))
        self._rig.send(topics["left"], image_message(left, "bgr8", stamp_ns, padding=robot.LEFT_PADDING))
        self._rig.send(topics["wrist"], wrist)

    def in_process(self, policy: edgevlm.Policy, observed_ns: int, state_ns: int) -> edgevlm.ActionChunk:
        """What a session says that saw the same."""
        session = policy.session()
        frames: dict[str, Any] = {}
        for stamp_ns, (step, _) in self.sent.items():
            if stamp_ns + 7_000_000 > observed_ns:
                break
            frames = {
                "left": Stamped(np.ascontiguousarray(step.left_rgb[:, :, ::-1]), stamp_ns),
                "wrist": Stamped(decode(step.wrist_jpeg, "rgb8"), stamp_ns + 7_000_000),
            }
            for name, frame in frames.items():
                session.push(name, frame)
        factor = 0.017453292519943295
        state = np.array([np.float64(value) * factor for value in self.sent[state_ns][1]]).astype(np.float32)
        return session.act(Observation(frames, Stamped(state, state_ns), robot.COMMANDS[0]))


@pytest.mark.slow
def test_the_second_robot_runs_by_its_yaml_alone(domain: int, processes: Processes, second: Path) -> None:
    """Two cameras, one late and compressed, seven joints in degrees among others, topics of its own, a namespace."""
    parameters = {**QUICK, "bundle": f"{second}/fp32", "topics": f"{second}/topics.yaml"}
    processes.start("second", "edgevlm_ros.policy_node", parameters=parameters, namespace="two")
    rig = PolicyRig(domain, "two")
    try:
        assert rig.change("configure")
        body = SecondRobot(rig)
        with Camera(body.send, rig.now_ns, robot.HZ):
            assert rig.change("activate"), rig.row("state")["message"]
        time.sleep(0.4)
        voice = rig.node.create_publisher(String, robot.TOPICS["text"].lstrip("/"), rig.voice.qos_profile)
        voice.publish(String(data=robot.COMMANDS[0]))
        wait_until(lambda: rig.following[-1:] == [robot.COMMANDS[0]])
        body.sent.clear()
        for _ in range(6):
            stamp_ns = rig.now_ns()
            body.send(stamp_ns)
            rig.chunk_of(stamp_ns + 7_000_000)
            time.sleep(0.03)
        with edgevlm.load(f"{second}/fp32", ONE_THREAD) as policy:
            for stamp_ns in body.sent:
                chunk = rig.chunk_of(stamp_ns + 7_000_000)
                same = body.in_process(policy, stamp_ns + 7_000_000, to_ns(chunk.state_stamp))
                assert np.array_equal(np.array(chunk.values).reshape(same.values.shape), same.values)
        assert chunk.cameras == ["left", "wrist"] and set(chunk.units) == {"rad"}
        assert [to_ns(stamp) - stamp_ns for stamp in chunk.frame_stamps] == [0, 7_000_000]
        assert abs(float(rig.row("camera wrist")["skew_ms"]) - 7) < 1
    finally:
        rig.close()


def test_a_clock_that_starts_again_begins_anew(domain: int, processes: Processes, tmp_path: Path) -> None:
    bundle, contract = tiny.mono(tmp_path / "mono"), tiny.mono_contract()
    parameters = {**QUICK, "bundle": str(bundle), "use_sim_time": True}
    processes.start("sim", "edgevlm_ros.policy_node", parameters=parameters, namespace="sim")
    rig = PolicyRig(domain, "sim")
    clock = rig.node.create_publisher(Clock, "/clock", 10)
    now_ns = [100 * SECOND_NS]
    sent: dict[int, Any] = {}

    def send(_: int, pause_s: float = 0.0) -> None:
        now_ns[0] += SECOND_NS // 20
        clock.publish(Clock(clock=to_time(now_ns[0])))
        time.sleep(pause_s)  # topics have no order: a frame that overtakes the clock's new beginning is dropped as old
        sent[now_ns[0]] = tiny.image(contract.cameras[0], len(sent))
        rig.send("joint_states", joints_message({"x": 0.1, "y": 0.0, "grip": 0.5}, now_ns[0]))
        rig.send("front/image_raw", image_message(sent[now_ns[0]], "rgb8", now_ns[0]))

    try:
        assert rig.change("configure")
        with Camera(send, rig.now_ns, 20):
            assert rig.change("activate"), rig.row("state")["message"]
            goal = rig.goal(tiny.COMMANDS[0], 1000)
            start = len(rig.chunks)
            wait_until(lambda: len(rig.chunks) > start + 10)
        time.sleep(0.2)
        sent.clear()
        now_ns[0] = SECOND_NS
        send(0, 0.2)
        _, outcome, reason = goal.outcome()
        assert outcome == ExecuteInstruction.Result.ABORTED and reason == "the clock began anew"
        assert rig.say(tiny.COMMANDS[0]).accepted
        for _ in range(6):
            send(0, 0.02)
            rig.chunk_of(now_ns[0])
        row = rig.row("matching")
        assert row["clock_restarts"] == "1"
        with edgevlm.load(bundle, ONE_THREAD) as policy:
            session = policy.session()
            for stamp_ns, pixels in sent.items():
                session.push("front", Stamped(pixels, stamp_ns))
            state = Stamped(np.array([0.1, 0.0, 0.5], np.float32), now_ns[0])
            last = Observation({"front": Stamped(sent[now_ns[0]], now_ns[0])}, state, tiny.COMMANDS[0])
            same = session.act(last)
        assert np.array_equal(np.array(rig.chunk_of(now_ns[0]).values).reshape(same.values.shape), same.values)
    finally:
        rig.close()


def test_without_a_policy_configuring_is_refused(domain: int, processes: Processes, tmp_path: Path) -> None:
    parameters = {**QUICK, "bundle": str(tmp_path / "none"), "autostart": True}
    processes.start("none", "edgevlm_ros.policy_node", parameters=parameters, namespace="none")
    wait_until(lambda: "configure refused" in processes.log("none"), 20)
    processes.start("odd", "edgevlm_ros.policy_node", parameters={"intra_threads": -1}, namespace="odd")
    process = processes["odd"]
    wait_until(lambda: process.poll() is not None, 20)
    assert process.returncode > 0 and "intra_threads out of range" in processes.log("odd")
    processes.kill("odd")
