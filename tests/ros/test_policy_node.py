"""policy_node as a process, over real DDS: what it computes, what it refuses, whom it listens to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from edgevlm_msgs.action import ExecuteInstruction
from edgevlm_msgs.msg import ActionChunk
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, String
from support import tiny
from support.picture_files import jpeg, png, png_bomb, resized, scene
from support.policy_rig import STATUS, Camera, PolicyRig, image_message, joints_message, wait_until
from support.tiny import COMMANDS

import edgevlm
from edgevlm.manifest.contract import Observation, Stamped
from edgevlm.options import RuntimeOptions
from edgevlm_ros.processes import Processes, environment
from edgevlm_ros.stamps import to_ns

HERE = Path(__file__).parent
PUSH, SLOW, RAISES = COMMANDS  # what faulty_policy.py makes of them
CONTRACT = tiny.mono_contract()
FRONT = CONTRACT.cameras[0]
JOINTS = {"x": 0.1, "y": -0.2, "grip": 0.3}
QUICK = {"diagnostics_period_s": 0.1, "check_s": 0.8, "silence_s": 0.3, "failures_to_abort": 5}
TOPIC = "front/image_raw"
Result = ExecuteInstruction.Result
Sent = dict[int, tuple[Any, dict[str, float]]]  # stamp -> picture in the contract's encoding, joints


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.mono(tmp_path_factory.mktemp("bundles") / "mono")


@pytest.fixture(scope="module")
def processes(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    variables = environment(domain)
    variables["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), variables.get("PYTHONPATH", "")])
    with Processes(tmp_path_factory.mktemp("policy"), variables) as started:
        yield started


@pytest.fixture(scope="module")
def rig(domain: int, bundle: Path, processes: Processes) -> Iterator[PolicyRig]:
    """The rig of one node, which is configured and not active."""
    parameters = {**QUICK, "bundle": str(bundle)}
    processes.start("one", HERE / "faulty_policy.py", parameters=parameters, namespace="one")
    rig = PolicyRig(domain, "one")
    assert rig.change("configure")
    yield rig
    rig.close()


def send(rig: PolicyRig, stamp_ns: int, joints: dict[str, float] = JOINTS, **more: Any) -> None:
    """A state and a frame; `more` replaces `pixels`, `encoding` or `padding` of the picture."""
    rig.send("joint_states", joints_message(joints, stamp_ns))
    rig.send(
        TOPIC, image_message(more.pop("pixels", tiny.image(FRONT, 1)), more.pop("encoding", "rgb8"), stamp_ns, **more)
    )


@pytest.fixture
def active(rig: PolicyRig) -> Iterator[PolicyRig]:
    """An active node, with a camera at 30 Hz that stops when the test begins to send for itself."""
    with Camera(lambda stamp_ns: send(rig, stamp_ns), rig.now_ns):
        assert rig.change("activate"), rig.row("state")["message"]
        yield rig
    assert rig.change("deactivate")


@pytest.fixture
def stepped(rig: PolicyRig) -> Iterator[PolicyRig]:
    """An active node that knows no frame yet: whoever uses it sends each one."""
    with Camera(lambda stamp_ns: send(rig, stamp_ns), rig.now_ns):
        assert rig.change("activate"), rig.row("state")["message"]
    time.sleep(0.6)  # longer than the window reaches
    yield rig
    assert rig.change("deactivate")


def in_process(bundle: Path, sent: Sent, chunk: ActionChunk, policy: edgevlm.Policy) -> edgevlm.ActionChunk:
    """What a session says about the same frames, and the state that the chunk names."""
    session, now_ns = policy.session(), to_ns(chunk.header.stamp)
    for stamp_ns, (pixels, _) in sent.items():
        if stamp_ns < now_ns:
            session.push("front", Stamped(pixels, stamp_ns))
    state_ns = to_ns(chunk.state_stamp)
    state = Stamped(np.array(list(sent[state_ns][1].values()), np.float32), state_ns)
    return session.act(Observation({"front": Stamped(sent[now_ns][0], now_ns)}, state, chunk.instruction))


def check_same(rig: PolicyRig, bundle: Path, sent: Sent) -> None:
    with edgevlm.load(bundle, RuntimeOptions(intra_threads=1)) as policy:
        for stamp_ns in sent:
            chunk = rig.chunk_of(stamp_ns)
            same = in_process(bundle, sent, chunk, policy)
            assert np.array_equal(np.array(chunk.values).reshape(-1, len(chunk.names)), same.values)
            wait_until(lambda at=stamp_ns: any(to_ns(plan.header.stamp) == at for plan in rig.plans))
            plan = next(plan for plan in rig.plans if to_ns(plan.header.stamp) == stamp_ns)
            assert same.plan is not None and plan.step == same.plan.step
            assert np.array_equal(np.array(plan.waypoints).reshape(2, 2), same.plan.waypoints)
            assert np.array_equal(np.array(plan.confidence), same.plan.confidence)
        assert chunk.bundle_sha256 == policy.bundle.sha256 and chunk.bundle_sha256 in rig.contracts[-1]
        assert to_ns(chunk.valid_until) == same.valid_until_ns and tuple(chunk.units) == same.units


def test_chunks_and_plans_equal_the_in_process_session_bit_for_bit(stepped: PolicyRig, bundle: Path) -> None:
    """With padded rows and with other encodings of the same picture in between, whose conversion is exact."""
    assert stepped.say(PUSH).accepted
    sent: Sent = {}
    for index in range(12):
        stamp_ns, pixels = stepped.now_ns(), tiny.image(FRONT, index)
        joints = {"grip": 0.01 * index, "other": 7.0, "y": -0.02 * index, "x": 0.03 * index}
        published, encoding = (pixels, "rgb8") if index % 3 else (pixels[:, :, ::-1], "bgr8")
        sent[stamp_ns] = pixels, {name: joints[name] for name in ("x", "y", "grip")}
        send(stepped, stamp_ns, joints, pixels=published, encoding=encoding, padding=index % 2 * 5)
        stepped.chunk_of(stamp_ns)
        time.sleep(0.03)
    check_same(stepped, bundle, sent)
    wait_until(lambda: to_ns(stepped.stats[-1].header.stamp) == stamp_ns)
    newest = stepped.stats[-1]
    assert len({each.session for each in (*stepped.chunks[-12:], stepped.beats[-1])} - {0}) == 1
    assert newest.error == "" and newest.frames_dropped == 0 and newest.acted >= 12 and "vision" in newest.stages
    assert newest.step_ms > 0 and any(to_ns(beat.observed) == stamp_ns for beat in stepped.beats if beat.observing)


FITTING = scene((FRONT.height, FRONT.width))
HOSTILE = [
    ("png", png_bomb(9_000, 9_000)),
    ("jpeg", resized(jpeg(FITTING), 9_000, 9_000)),
    ("mono16; png compressed mono16", png(FITTING.astype(np.uint16))),
    ("yuv422_yuy2; jpeg compressed mono8", jpeg(FITTING[:, :, 0].copy())),
    ("16UC1; compressedDepth", png(FITTING)),
    ("jpeg", jpeg(FITTING)[:-40]),
]


def count(rig: PolicyRig, key: str) -> int:
    return int(rig.row("camera front")[key])


def test_compressed_pictures_come_in_by_convention(rig: PolicyRig, bundle: Path) -> None:
    sent: Sent = {}

    def compressed(stamp_ns: int) -> None:
        pixels, buffer = tiny.image(FRONT, len(sent)), BytesIO()
        Picture.fromarray(pixels).save(buffer, "PNG")
        message = CompressedImage(format="rgb8; png compressed bgr8", data=buffer.getvalue())
        message.header = image_message(pixels, "rgb8", stamp_ns).header
        sent[stamp_ns] = pixels, JOINTS
        rig.send("joint_states", joints_message(JOINTS, stamp_ns))
        rig.send(f"{TOPIC}/compressed", message)

    rig.silence(TOPIC)
    time.sleep(0.3)  # until the node has heard of it
    with Camera(compressed, rig.now_ns):
        assert rig.change("activate"), rig.row("state")["message"]
    time.sleep(0.6)
    sent.clear()
    assert rig.say(PUSH).accepted
    for _ in range(4):
        compressed(rig.now_ns())
        rig.chunk_of(list(sent)[-1])
        time.sleep(0.03)
    check_same(rig, bundle, sent)
    before = dict(rig.row("camera front"))
    for number, (form, data) in enumerate(HOSTILE):
        message = CompressedImage(format=form, data=data)
        message.header = image_message(tiny.image(FRONT, 0), "rgb8", rig.now_ns()).header
        rig.send(f"{TOPIC}/compressed", message)
        wait_until(lambda number=number: count(rig, "received") > int(before["received"]) + number)
    after = rig.row("camera front")
    refused = {
        why: int(after[f"refused_{why}"]) - int(before[f"refused_{why}"]) for why in ("size", "encoding", "damaged")
    }
    assert refused == {"size": 2, "encoding": 3, "damaged": 1}
    compressed(rig.now_ns())
    rig.chunk_of(list(sent)[-1])
    assert rig.change("deactivate")
    rig.silence(f"{TOPIC}/compressed")
    time.sleep(0.3)


def refusal(rig: PolicyRig, transmit: Any) -> str:
    with Camera(transmit, rig.now_ns):
        assert not rig.change("activate")
    row = rig.row("state")
    assert row["level"] == "error"
    return row["message"]


def test_activation_names_missing_topics_and_those_that_could_be_meant(rig: PolicyRig) -> None:
    rig.silence(TOPIC)
    rig.silence("joint_states")
    time.sleep(0.3)
    faults = refusal(rig, lambda at: rig.send("side/image_raw", image_message(tiny.image(FRONT, 1), "rgb8", at)))
    rig.silence("side/image_raw")
    assert "2 fault(s)" in faults
    assert "camera 'front', topic /one/front/image_raw" in faults and "nobody publishes it" in faults
    assert "/one/side/image_raw" in faults and "state x, y, grip, topic /one/joint_states: nobody publishes" in faults


def test_activation_names_wrong_types_and_missing_joints(rig: PolicyRig) -> None:
    def transmit(at: int) -> None:
        rig.send(TOPIC, String(data="no picture"))
        rig.send("joint_states", joints_message({"x": 0.0, "wrist": 0.0, "grip": 0.0}, at))

    faults = refusal(rig, transmit)
    rig.silence(TOPIC)
    time.sleep(0.3)
    assert "expected sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage, got std_msgs/msg/String" in faults
    assert "joints ['y'] are missing, it has grip, wrist, x" in faults


def test_activation_names_size_rate_and_unit(rig: PolicyRig) -> None:
    turns = [0]

    def transmit(at: int) -> None:
        turns[0] += 1
        if turns[0] % 8 == 0:  # 3.75 Hz
            rig.send(TOPIC, image_message(np.zeros((24, 32, 3), np.uint8), "rgb8", at))
        rig.send("joint_states", joints_message({"x": 90.0, "y": 0.0, "grip": 0.0}, at))

    faults = refusal(rig, transmit)
    assert "expected 16x12, got 32x24" in faults and "expected 10 to 60 Hz, got 3." in faults
    assert "state 'x': 90 m is 180 standard deviations" in faults


def test_activation_names_encoding_stamps_and_a_second_publisher(rig: PolicyRig) -> None:
    second = rig.node.create_publisher(Image, TOPIC, 5)

    def transmit(at: int) -> None:
        rig.send("joint_states", joints_message(JOINTS, at - 10_000_000_000))
        rig.send(TOPIC, image_message(np.zeros((12, 32), np.uint8), "16UC1", at))

    faults = refusal(rig, transmit)
    rig.node.destroy_publisher(second)
    assert "expected one publisher, got 2 (/one/rig, /one/rig)" in faults
    assert "got +10.0" in faults and "synchronise the clocks" in faults
    time.sleep(0.3)
    faults = refusal(rig, transmit)
    assert "one publisher" not in faults and "expected an encoding of rgb8" in faults and "got 16UC1" in faults


def test_activation_names_a_publisher_that_never_sends(rig: PolicyRig) -> None:
    rig.publisher(Image, TOPIC)
    faults = refusal(rig, lambda at: rig.send("joint_states", joints_message(JOINTS, at)))
    assert "1 fault(s)" in faults and "topic /one/front/image_raw: no message within 0.8 s" in faults


def test_bad_input_is_counted_refused_and_survived(stepped: PolicyRig) -> None:
    rig = stepped
    assert rig.say(PUSH).accepted
    good = tiny.image(FRONT, 1)

    picture = lambda *parts: rig.send(TOPIC, image_message(*parts))  # noqa: E731
    before, before_state = rig.row("camera front"), rig.row("state_input")
    now_ns = rig.now_ns()
    send(rig, now_ns)
    rig.chunk_of(now_ns)
    cut = image_message(good, "rgb8", now_ns)
    cut.data = cut.data[:100]
    rig.send(TOPIC, cut)
    rig.publisher(Image, TOPIC).publish(b"\x00\x01\x00\x00\x01\x02\x03")  # no message at all
    picture(np.zeros((12, 32), np.uint8), "16UC1", now_ns)
    picture(np.zeros((24, 16, 3), np.uint8), "rgb8", now_ns)
    wait_until(lambda: count(rig, "received") >= int(before["received"]) + 5)
    picture(good, "rgb8", now_ns - 1_000_000)
    picture(good, "rgb8", now_ns - 10_000_000_000)
    picture(good, "rgb8", now_ns + 10_000_000_000)
    rig.send("joint_states", JointState(name=["x", "y"], position=[1.0]))
    rig.send("joint_states", joints_message({**JOINTS, "y": np.nan}, now_ns + 1))
    rig.send("joint_states", joints_message({**JOINTS, "y": np.inf}, now_ns + 2))
    rig.send("joint_states", joints_message(JOINTS, now_ns + 10_000_000_000))
    wait_until(lambda: count(rig, "received") >= int(before["received"]) + 8)
    wait_until(lambda: int(rig.row("state_input")["received"]) >= int(before_state["received"]) + 5)
    last_ns = rig.now_ns()
    send(rig, last_ns)
    assert np.isfinite(rig.chunk_of(last_ns).values).all()
    front, state = rig.row("camera front"), rig.row("state_input")
    counted = {key: int(front[key]) - int(before[key]) for key in before if key in front and before[key].isdigit()}
    expected = {"refused_damaged": 2, "refused_encoding": 1, "refused_size": 1, "late": 1, "old": 1, "future": 1}
    assert {key: counted[key] for key in expected} == expected and counted["taken"] == 2
    assert int(state["refused_not_finite"]) - int(before_state["refused_not_finite"]) == 2
    assert int(state["future"]) - int(before_state["future"]) == 1


def test_silence_is_an_error_and_ends_by_itself(stepped: PolicyRig) -> None:
    row = stepped.row("camera front")
    assert row["level"] == "error" and row["health"] == "missing" and "nothing usable" in row["message"]
    with Camera(lambda stamp_ns: send(stepped, stamp_ns), stepped.now_ns):
        wait_until(lambda: stepped.row("camera front")["level"] == "ok")
        second = stepped.node.create_publisher(Image, TOPIC, 5)
        wait_until(lambda: stepped.row("camera front")["publishers"] == "2")
        assert "2 publishers" in stepped.row("camera front")["message"]
        stepped.node.destroy_publisher(second)
    assert stepped.row("worker")["alive"] == "True"


def test_service_and_topic_are_equals_and_unknown_words_are_refused(active: PolicyRig) -> None:
    active.voice.publish(String(data=SLOW))
    wait_until(lambda: active.following[-1:] == [SLOW])
    assert active.say(PUSH).accepted
    wait_until(lambda: active.following[-1] == PUSH)
    refused = active.say("dance the tango")
    assert not refused.accepted and "never taught ['dance'" in refused.message
    active.voice.publish(String(data="dance"))
    wait_until(lambda: active.row("instruction")["topic_refused"] == "1")
    row = active.row("instruction")
    assert (row["text"], row["source"], row["service_refused"]) == (PUSH, "service", "1")
    active.chunks.clear()
    wait_until(lambda: any(chunk.instruction == PUSH for chunk in active.chunks))  # a step under way may end before
    active.chunks.clear()
    wait_until(lambda: len(active.chunks) > 3)
    assert {chunk.instruction for chunk in active.chunks} == {PUSH}
    assert active.say("").accepted
    wait_until(lambda: active.following[-1] == "")
    time.sleep(0.2)
    idle = len(active.chunks)
    time.sleep(0.3)
    assert len(active.chunks) == idle, "nobody told it what to do"


def test_whoever_speaks_with_a_qos_that_cannot_arrive_learns_how_to(active: PolicyRig) -> None:
    voice = active.node.create_publisher(String, "instruction", 10)  # as `ros2 topic pub` does: volatile
    wait_until(lambda: "transient_local" in active.row("instruction")["incompatible_qos"])
    assert active.row("instruction")["level"] == "warn"
    active.node.destroy_publisher(voice)


def test_parameters_are_frozen_while_it_is_active(active: PolicyRig) -> None:
    client = active.node.create_client(SetParameters, "policy_node/set_parameters")
    assert client.wait_for_service(10)

    def put(name: str, value: float) -> str:
        future = client.call_async(SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()]))
        wait_until(future.done)
        result = future.result().results[0]
        return "" if result.successful else result.reason

    assert "cannot change while the node is active" in put("match.wait_s", 0.1)
    assert active.change("deactivate")
    assert "out of range" in put("match.wait_s", -1.0) and put("match.wait_s", 0.06) == ""
    assert active.change("activate")


def test_a_thousand_instructions_a_second_do_not_hurt(active: PolicyRig) -> None:
    assert active.say(PUSH).accepted
    for index in range(1000):
        active.voice.publish(String(data=(PUSH, "dance")[index % 2]))
        time.sleep(0.0007)
    active.voice.publish(String(data=PUSH))
    start, began = len(active.chunks), time.monotonic()
    wait_until(lambda: len(active.chunks) >= start + 30, 3)
    assert time.monotonic() - began < 1.6 and int(active.row("instruction")["topic_refused"]) > 100


def test_a_goal_ends_with_the_success_topic_and_then_the_robot_idles(active: PolicyRig) -> None:
    active.success.publish(Bool(data=True))  # of somebody before
    time.sleep(0.1)
    goal = active.goal(PUSH, 30)
    assert goal.accepted
    refused = active.say(PUSH)
    assert not refused.accepted and "a goal is under way" in refused.message
    active.voice.publish(String(data=PUSH))
    wait_until(lambda: int(active.row("instruction")["topic_ignored"]) >= 1)
    wait_until(lambda: len(goal.feedback) >= 3)
    feedback = goal.feedback[-1]
    assert (
        feedback.step in ("approach", "grasp", "carry") and 0 <= feedback.progress <= 1 and 0 < feedback.confidence <= 1
    )
    assert feedback.latency_ms >= feedback.step_ms > 0 and to_ns(feedback.elapsed) > 0
    active.success.publish(Bool(data=False))
    active.success.publish(Bool(data=True))
    assert goal.outcome()[:2] == (STATUS["succeeded"], Result.SUCCEEDED)
    assert active.row("instruction")["source"] == "none"


def test_goals_time_out_are_canceled_and_preempt_each_other(active: PolicyRig) -> None:
    assert not active.goal("dance").accepted
    goal = active.goal(PUSH, 0.5)
    began = time.monotonic()
    assert goal.outcome() == (STATUS["aborted"], Result.TIMED_OUT, "not done within 0.5 s")
    assert time.monotonic() - began < 1.0
    older = active.goal(PUSH)
    newer = active.goal(SLOW)
    assert older.outcome()[:2] == (STATUS["aborted"], Result.PREEMPTED)
    assert active.row("instruction")["text"] == SLOW
    assert active.cancel(newer) == 1
    assert newer.outcome()[:2] == (STATUS["canceled"], Result.CANCELED)
    assert active.row("instruction")["goal_preempted"] == "1"


def test_a_model_that_keeps_failing_and_a_deactivation_abort_the_goal(active: PolicyRig) -> None:
    goal = active.goal(RAISES)
    status, outcome, reason = goal.outcome()
    assert (status, outcome) == (STATUS["aborted"], Result.ABORTED) and "RuntimeError: the model broke" in reason
    row = active.row("inference")
    assert row["level"] == "error" and int(row["failed"]) >= 5 and "the model broke" in row["last_error"]
    wait_until(lambda: any("the model broke" in stats.error for stats in active.stats))
    assert active.say(PUSH).accepted
    wait_until(lambda: active.row("inference")["level"] == "ok")
    goal = active.goal(PUSH)
    assert active.change("deactivate")
    assert goal.outcome()[1:] == (Result.ABORTED, "the node was deactivated")
    assert not active.goal(PUSH).accepted and not active.say(PUSH).accepted
    assert active.change("activate")


def test_a_slow_model_acts_on_the_newest_and_sees_the_frames_between(active: PolicyRig) -> None:
    active.voice.publish(String(data=SLOW))  # in the place of what is latched there from before
    active.stats.clear()
    wait_until(lambda: sum(stats.step_ms >= 150 for stats in active.stats) >= 6)
    assert active.stats[-1].observations_dropped > 5 and active.stats[-1].frames_dropped == 0
    assert 150 <= active.stats[-1].step_ms <= active.stats[-1].latency_ms < 350
