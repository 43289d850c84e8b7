"""A contract against what is live: one deviation gives one fault: what was expected, what came, what to do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import JointState
from support import tiny

from edgevlm.errors import ContractError
from edgevlm.manifest.contract import Contract
from edgevlm.rosmsg.contract_check import Limits, check_contract
from edgevlm.rosmsg.schemas import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, POSE_STAMPED
from edgevlm.rosmsg.topic_facts import Facts, TopicFacts, uneven
from edgevlm.rosmsg.topic_map import StateSource, TopicMap
from edgevlm_ros.contract_check import check_live

MS = 1_000_000
CAMERA, JOINTS, POSE = "front/image_raw", "joint_states", "hand_pose"
LIMITS = Limits(rate_tolerance=1.5, max_age_s=0.5, future_s=0.1)
TOPICS = TopicMap(
    cameras={"front": CAMERA},
    state={
        "x": StateSource(topic=POSE, path="pose.position.x"),
        "y": StateSource(topic=POSE, path="pose.position.y"),
        "grip": StateSource(topic=JOINTS, joint="claw"),
    },
    instruction="instruction",
)


def contract() -> Contract:
    """tiny's, with frames that have names; 10 to 60 Hz."""
    data = tiny.mono_contract().model_dump()
    data["cameras"][0]["frame_id"] = "eye"
    data["state"]["frame_id"] = "base"
    return Contract.model_validate(data)


def seen(name: str, type_name: str, rate_hz: float = 30.0, age_ms: float = 5.0) -> TopicFacts:
    stamps = [round(index * 1e9 / rate_hz) for index in range(6)]
    ages = [round(age_ms * MS)] * 6
    return TopicFacts(f"/r/{name}", (("/r/driver", type_name),), messages=6, stamps_ns=stamps, ages_ns=ages)


def fitting() -> dict[str, TopicFacts]:
    camera, joints, pose = seen(CAMERA, IMAGE), seen(JOINTS, JOINT_STATE), seen(POSE, POSE_STAMPED)
    camera.encodings, camera.sizes, camera.frame_ids = {"bgr8"}, {(16, 12)}, {"eye"}
    joints.joints, joints.frame_ids, pose.frame_ids = {"claw", "wrist"}, {""}, {"base"}
    return {CAMERA: camera, JOINTS: joints, POSE: pose}


def live(
    topics: dict[str, TopicFacts], state: tuple[float, ...] = (0.1, 0.2, 0.3), missing: tuple[str, ...] = ()
) -> Facts:
    names = {each.name: each.types for each in topics.values() if each.types}
    names |= {"/r/side/image_raw": (IMAGE,), "/r/scan": ("sensor_msgs/msg/LaserScan",)}
    values = {name: np.array([value], np.float32) for name, value in zip(("x", "y", "grip"), state, strict=True)}
    numbers = {} if missing else values
    return Facts(topics, names, numbers, dict.fromkeys(missing, ""), period="within 2 s")


def faults(facts: Facts) -> list[str]:
    return [fault.text for fault in check_contract(contract(), TOPICS, facts, LIMITS).faults]


def found(topics: dict[str, TopicFacts], *more: tuple[float, ...]) -> list[str]:
    return faults(live(topics, *more))


@given(
    rate_hz=st.floats(10 / 1.49, 60 * 1.49),
    age_ms=st.floats(-99, 499),
    encoding=st.sampled_from(["rgb8", "bgr8", "rgba8", "bgra8", "mono8"]),
    state=st.tuples(*[st.floats(-20, 20)] * 3),
    compressed=st.booleans(),
)
def test_what_fits_has_no_fault(
    rate_hz: float, age_ms: float, encoding: str, state: tuple[float, ...], compressed: bool
) -> None:
    topics = fitting()
    camera = seen(CAMERA, COMPRESSED_IMAGE if compressed else IMAGE, rate_hz, age_ms)
    camera.encodings, camera.sizes, camera.frame_ids = (
        set() if compressed else {encoding},
        {(16, 12)},
        {"eye"},
    )
    assert found({**topics, CAMERA: camera}, state) == []


def change(topic: str, **attributes: object) -> Callable[[dict[str, TopicFacts]], None]:
    def apply(topics: dict[str, TopicFacts]) -> None:
        for key, value in attributes.items():
            setattr(topics[topic], key, value)

    return apply


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (change(CAMERA, publishers=()), ["camera 'front', topic /r/front/image_raw: nobody", "/r/side/image_raw"]),
        (change(CAMERA, publishers=(("/a", IMAGE), ("/b", IMAGE))), ["expected one publisher, got 2 (/a, /b)"]),
        (change(CAMERA, publishers=(("/a", "std_msgs/msg/String"),)), [IMAGE, "got std_msgs/msg/String; remap"]),
        (change(CAMERA, messages=0), ["no message within 2 s"]),
        (change(CAMERA, qos="RELIABILITY cannot match"), ["RELIABILITY cannot match; set qos_overrides./r/front"]),
        (change(CAMERA, problem="the message is damaged"), ["the message is damaged"]),
        (change(CAMERA, encodings={"16UC1", "rgb8"}), ["expected an encoding of rgb8", "got 16UC1; convert"]),
        (change(CAMERA, sizes={(16, 12), (640, 480)}), ["expected 16x12, got 640x480; set the camera's resolution"]),
        (change(CAMERA, frame_ids={"nose"}), ["expected frame_id 'eye', got 'nose'"]),
        (change(CAMERA, stamps_ns=[0, 500 * MS, 1000 * MS]), ["expected 10 to 60 Hz, got 2.0 Hz"]),
        (change(CAMERA, stamps_ns=[0, 5 * MS, 10 * MS]), ["got 200.0 Hz by its stamps"]),
        (change(CAMERA, ages_ns=[10_000 * MS]), ["got +10.000 s (arrival minus stamp); synchronise"]),
        (change(JOINTS, ages_ns=[-10_000 * MS]), ["state, topic /r/joint_states", "got -10.000 s"]),
        (change(JOINTS, publishers=()), ["state grip, topic /r/joint_states: nobody publishes"]),
        (change(JOINTS, joints={"wrist"}), ["joints ['claw'] are missing, it has wrist"]),
        (change(JOINTS, uneven="expected a number for each"), ["expected a number for each"]),
        (change(JOINTS, publishers=(("/a", POSE_STAMPED),)), [f"expected {JOINT_STATE}, got {POSE_STAMPED}"]),
        (change(POSE, frame_ids={"map"}), ["expected frame_id 'base', got 'map'"]),
        (change(POSE, problem="path 'pose.position.x' ends at 'pose'"), ["ends at 'pose'"]),
    ],
)
def test_one_deviation_gives_one_fault(edit: Callable[[dict[str, TopicFacts]], None], parts: list[str]) -> None:
    topics = fitting()
    edit(topics)
    (fault,) = found(topics)
    for part in parts:
        assert part in fault


def test_numbers_in_another_unit_are_named_and_all_faults_come_at_once() -> None:
    (fault,) = found(fitting(), (0.1, 90.0, 0.3))
    assert "state 'y': 90 m is 180 standard deviations" in fault and "topic map" in fault
    assert "'grip': nan" in found(fitting(), (0.1, 0.2, float("nan")))[0]
    topics = fitting()
    change(CAMERA, sizes={(1, 1)}, frame_ids={"nose"}, ages_ns=[-(10**12)])(topics)
    change(JOINTS, messages=0)(topics)
    assert len(found(topics, (90.0, 90.0, 0.0))) == 6


def test_a_rate_is_not_fooled_by_a_lost_frame_and_a_path_without_a_number_is_named() -> None:
    topics = fitting()
    change(CAMERA, stamps_ns=[0, 33 * MS, 66 * MS, 900 * MS, 933 * MS])(topics)
    assert found(topics) == []
    (fault,) = faults(live(fitting(), missing=("y",)))
    assert "no number for ['y']; correct their `path`" in fault


def test_joint_lists_that_do_not_belong_together_are_told() -> None:
    assert uneven(JointState(name=["a", "b"], position=[1.0, 2.0])) == ""
    assert "2 names, got 1 in position" in uneven(JointState(name=["a", "b"], position=[1.0]))
    assert "['a'] are named twice" in uneven(JointState(name=["a", "a"], position=[1.0, 2.0]))


def test_activation_is_refused_with_every_fault_and_warned_of_the_rest() -> None:
    topics, told = fitting(), list[str]()
    change(CAMERA, sizes={(1, 1)}, frame_ids={"nose"})(topics)
    with pytest.raises(ContractError, match=r"2 fault\(s\) between the contract and the live topics:\n  - camera"):
        check_live(contract(), TOPICS, live(topics), LIMITS, told.append)
    stamps = [33 * MS * index for index in (0, 1, 2, 2, 3, 4)]
    topics = fitting()
    change(CAMERA, stamps_ns=stamps)(topics)
    check_live(contract(), TOPICS, live(topics), LIMITS, told.append)
    assert told == [
        "camera 'front', topic /r/front/image_raw: 1 of 6 frames have a stamp that had come already; "
        "the first of each is used"
    ]
