"""What is sent as patched bytes is, byte for byte, what DDS makes of the message object."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

import rclpy
from edgevlm_msgs.msg import GateStatus
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState
from support import gate_judge
from trajectory_msgs.msg import JointTrajectory

from edgevlm.gate.columns import Column, columns
from edgevlm.gate.gate import GateCommand
from edgevlm.gate.limits import AxisLimits, Cause, GateLimits, OrientationLimits
from edgevlm.manifest.contract import ActionGroup, StateField
from edgevlm.rosmsg.topic_map import default_topics
from edgevlm_ros import serialized_cache
from edgevlm_ros.command_messages import Setpoint, setpoints
from edgevlm_ros.messages import STATUS_NUMBERS, status_message, status_numbers, status_says
from edgevlm_ros.qos import RELIABLE, advertise, listen
from edgevlm_ros.serialized_cache import OFTEN, STAMP, SerializedCache, patch
from edgevlm_ros.stamps import seconds, to_ns

BYTES = {"uint8": 1, "int32": 4, "uint32": 4, "uint64": 8, "double": 8}
TURNED = ("qx", "qy", "qz", "qw")
STAMPS_NS = st.integers(0, (2**31 - 1) * 10**9 + 999_999_999)
VALUES = st.floats(allow_nan=False)
WORDS = st.text(st.characters(min_codepoint=1, max_codepoint=0x2FF), max_size=9)


def covered(message: Any) -> tuple[list[int], int]:
    """Which bytes of a message in CDR are its own, by the rules of the format, and their end; others are padding.

    Source: DDS-RTPS 2.2, 10.2, and CORBA 3.3 part 2, 9.3: every primitive lies at a multiple of its size, counted from
    after the four bytes of encapsulation; a string has its length before it and a zero behind.
    """
    own, at = list(range(4)), 0

    def take(size: int, align: int) -> None:
        nonlocal at
        at += -at % align
        own.extend(range(4 + at, 4 + at + size))
        at += size

    def walk(kind: str, value: Any) -> None:
        if kind.startswith("sequence<"):
            take(4, 4)
            for item in value:
                walk(kind.removeprefix("sequence<").removesuffix(">"), item)
        elif kind == "string":
            take(4, 4)
            take(len(value.encode()) + 1, 1)
        elif kind in BYTES:
            take(BYTES[kind], BYTES[kind])
        else:
            for name, inner in value.get_fields_and_field_types().items():
                walk(inner, getattr(value, name))

    walk("", message)
    return own, 4 + at


def assert_same_bytes(data: bytes, message: Any) -> None:
    """`data` is what DDS makes of the message, apart from padding, which it leaves as the memory was."""
    expected = serialize_message(message)
    own, end = covered(message)
    assert len(data) == end <= len(expected)  # what serializing returns may be longer than what is sent
    assert expected[:4] == b"\x00\x01\x00\x00"
    assert [data[i] for i in own] == [expected[i] for i in own]
    assert deserialize_message(data, type(message)) == message


def sent_as() -> dict[str, tuple[Setpoint, tuple[Column, ...]]]:
    """Each form of command that there is, with its columns."""

    def group(kind: Any, names: tuple[str, ...], unit: str, **more: Any) -> ActionGroup:
        n = len(names)
        bounds = {"scale": (1.0,) * n, "offset": (0.0,) * n, "lower": (-9.0,) * n, "upper": (9.0,) * n}
        return ActionGroup(kind=kind, names=names, units=(unit,) * n, **bounds, **more)

    groups = {
        "twist": group("twist", ("x", "y", "z"), "m/s", frame_id="base"),
        "pose": group("ee_pose", ("x", "y", "z", *TURNED), "m", rotation="quaternion_xyzw", frame_id="hand"),
        "velocity": group("joint_velocity", ("one", "two"), "rad/s"),
        "trajectory": group("joint_position", ("one", "two", "three"), "rad"),
        "position": group("joint_position", ("one",), "rad", topic_type="sensor_msgs/msg/JointState"),
        "gripper": group("gripper", ("jaw",), "1"),
    }
    topics = {}
    for name, one in groups.items():
        contract = gate_judge.contract((one,), tuple(StateField(name=each, unit="1") for each in one.names))
        turning = (OrientationLimits(actions=TURNED, state=TURNED, velocity=1, acceleration=1, tracking=1),)
        moving = () if name == "gripper" else tuple(each for each in one.names if each not in TURNED)
        limits = GateLimits(
            axes=tuple(
                AxisLimits(action=each, state=each, position=(-3, 3), velocity=1, acceleration=1, tracking=1)
                for each in moving
            ),
            orientations=turning if name == "pose" else (),
            command_period_s=0.02,
            command_valid_s=0.06,
            deadline_s=0.3,
            state_max_age_s=0.2,
            recover_after_s=0.5,
            future_s=0.1,
            reset_after_s=1.0,
        )
        sent = columns(contract, limits)
        (setpoint,) = setpoints(contract, sent, default_topics(contract), (), 0.02)
        topics[name] = (setpoint, sent)
    return topics


FORMS = sent_as()


def test_every_type_that_a_command_can_have_is_looked_at_here() -> None:
    kinds = {setpoint.message_type for setpoint, _ in FORMS.values()}
    assert kinds == {TwistStamped, PoseStamped, JointState, JointTrajectory}


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data(), then_ns=STAMPS_NS, now_ns=STAMPS_NS)
def test_a_patched_command_is_the_command(form: str, data: st.DataObject, then_ns: int, now_ns: int) -> None:
    setpoint, sent = FORMS[form]
    before = data.draw(st.lists(st.floats(-9, 9), min_size=len(sent) - 1, max_size=len(sent) - 1))
    values = (*before, data.draw(st.floats(0.1, 9)))  # a quaternion is not zero
    command = GateCommand(1, then_ns, then_ns, "hold", values)
    patched = patch(setpoint.message(command), STAMP)
    assert patched is not None
    assert_same_bytes(patched(seconds(now_ns)), setpoint.message(replace(command, stamp_ns=now_ns)))
    assert_same_bytes(patched(seconds(then_ns)), setpoint.message(command))


COMMANDS = st.builds(
    GateCommand,
    number=st.integers(0, 2**64 - 1),
    stamp_ns=STAMPS_NS,
    valid_until_ns=STAMPS_NS,
    mode=st.sampled_from(["follow", "hold", "decelerate", "stop"]),
    values=st.none() | st.lists(VALUES, max_size=4).map(tuple),
    cause=st.none() | st.sampled_from(get_args(Cause)),
    since_ns=st.none() | STAMPS_NS,
    limited=st.lists(WORDS, max_size=2).map(tuple),
    observed_ns=st.none() | STAMPS_NS,
    sequence=st.none() | st.integers(0, 2**64 - 1),
    row=st.none() | st.integers(0, 2**31 - 1),
)


@given(command=COMMANDS, later=COMMANDS, names=st.lists(WORDS, max_size=3))
def test_a_patched_status_is_the_status(command: GateCommand, later: GateCommand, names: list[str]) -> None:
    sent = tuple(replace(FORMS["gripper"][1][0], name=name, unit=name) for name in names)
    patched = patch(status_message(command, sent), STATUS_NUMBERS)
    assert patched is not None
    times = {"number": later.number, "stamp_ns": later.stamp_ns, "valid_until_ns": later.valid_until_ns}
    assert_same_bytes(patched(status_numbers(later)), status_message(replace(command, **times), sent))


def test_a_status_that_says_something_else_is_not_taken_for_the_same() -> None:
    command = GateCommand(1, 2, 3, "hold", (0.5,), "estop", 4, (), 5, 6, 7)
    other = GateCommand(11, 12, 13, "stop", None, "tracking", 14, ("x",), 15, 16, 17)
    for field in fields(GateCommand):
        changed = replace(command, **{field.name: getattr(other, field.name)})
        numbers = field.name in ("number", "stamp_ns", "valid_until_ns")
        assert (status_numbers(changed) != status_numbers(command)) is numbers, field.name
        assert (status_says(changed) != status_says(command)) is not numbers, field.name


def test_what_would_be_read_as_another_message_is_not_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    twist = TwistStamped()
    twist.twist.linear.x = math.nan  # equals nothing
    assert patch(twist, STAMP) is None
    assert patch(TwistStamped(), STAMP[::-1]) is None
    assert patch(TwistStamped(), STAMP) is not None
    monkeypatch.setattr(
        serialized_cache, "serialize_message", lambda message: b"\x00\x00" + serialize_message(message)[2:]
    )
    assert patch(TwistStamped(), STAMP) is None  # said to be big-endian


class Wire:
    """A publisher that keeps what it is given; `deaf`: bytes are refused, as by a DDS without that."""

    msg_type = JointState

    def __init__(self, deaf: bool = False) -> None:
        self.sent: list[tuple[str, JointState]] = []
        self._deaf = deaf

    def publish(self, message: JointState | bytes) -> None:
        if isinstance(message, bytes):
            if self._deaf:
                raise RuntimeError("failed to publish serialized message: not supported")
            self.sent.append(("bytes", deserialize_message(message, JointState)))
        else:
            assert isinstance(message, JointState)
            self.sent.append(("object", deserialize_message(serialize_message(message), JointState)))


def jaw(opening: float) -> JointState:
    return JointState(name=["jaw"], position=[opening])


def play(wire: Wire, openings: list[float]) -> list[str]:
    """Send these, a second apart; in which form each went out."""
    sender: SerializedCache[float] = SerializedCache(wire, STAMP, jaw)  # type: ignore[arg-type]
    for second, opening in enumerate(openings):
        sender.publish(opening, opening, (second, 7))
        sender.prepare()
    assert [(message.position[0], to_ns(message.header.stamp)) for _, message in wire.sent] == [
        (opening, second * 10**9 + 7) for second, opening in enumerate(openings)
    ]
    return [form for form, _ in wire.sent]


def test_bytes_are_sent_once_the_same_content_repeats_and_no_longer_than_that() -> None:
    often = ["object"] * OFTEN
    assert play(Wire(), [0.5] * (OFTEN + 3) + [0.25] * (OFTEN + 1)) == [*often, *["bytes"] * 3, *often, "bytes"]
    assert play(Wire(), [0.5, 0.25] * OFTEN) == ["object"] * OFTEN * 2
    assert play(Wire(), [0.5] * (OFTEN - 1) + [0.25] + [0.5] * OFTEN) == ["object"] * OFTEN * 2


def test_a_dds_that_takes_no_bytes_gets_every_message_as_an_object() -> None:
    assert play(Wire(deaf=True), [0.5] * (OFTEN + 3) + [0.25] * (OFTEN + 3)) == ["object"] * 2 * (OFTEN + 3)


@pytest.fixture
def node(domain: int) -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node("repeating", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.mark.parametrize("values", [(0.5,), ()])
def test_over_dds_bytes_arrive_as_objects_do(node: Any, values: tuple[float, ...]) -> None:
    sent = FORMS["gripper"][1]
    publisher = advertise(node, GateStatus, "said", RELIABLE)
    got: list[bytes] = []
    listen(node, GateStatus, "said", got.append, RELIABLE, raw=True)
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    end = time.monotonic() + 10
    while not publisher.get_subscription_count() and time.monotonic() < end:
        time.sleep(0.01)
    sender: SerializedCache[GateCommand] = SerializedCache(
        publisher, STATUS_NUMBERS, lambda command: status_message(command, sent)
    )
    messages = []
    for number in range(2 * OFTEN):
        command = GateCommand(number, number * 10**9 + 3, number * 10**9 + 5, "hold", values, "state_stale", 1)
        sender.publish(command, status_says(command), status_numbers(command))
        sender.prepare()
        messages.append(status_message(command, sent))
        while len(got) < len(messages) and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    assert len(got) == len(messages)
    for data, message in zip(got, messages, strict=True):
        assert_same_bytes(data, message)
