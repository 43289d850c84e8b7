"""A contract against facts about its topics: one deviation gives one fault, with expected, got and what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.live_topics import CAMERA, JOINTS, LIMITS, MS, POSE, TOPICS, change, contract, fitting, live, observed

from edgevlm.rosmsg.contract_check import check_contract
from edgevlm.rosmsg.schemas import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, POSE_STAMPED
from edgevlm.rosmsg.topic_facts import Facts, TopicFacts


def faults(facts: Facts) -> list[str]:
    return [fault.text for fault in check_contract(contract(), TOPICS, facts, LIMITS).faults]


def faults_of(topics: dict[str, TopicFacts], *more: tuple[float, ...]) -> list[str]:
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
    camera = observed(CAMERA, COMPRESSED_IMAGE if compressed else IMAGE, rate_hz, age_ms)
    camera.encodings, camera.sizes, camera.frame_ids = (
        set() if compressed else {encoding},
        {(16, 12)},
        {"eye"},
    )
    assert faults_of({**topics, CAMERA: camera}, state) == []


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
    (fault,) = faults_of(topics)
    for part in parts:
        assert part in fault


def test_numbers_in_another_unit_are_named_and_all_faults_come_at_once() -> None:
    (fault,) = faults_of(fitting(), (0.1, 90.0, 0.3))
    assert "state 'y': 90 m is 180 standard deviations" in fault and "topic map" in fault
    assert "'grip': nan" in faults_of(fitting(), (0.1, 0.2, float("nan")))[0]
    topics = fitting()
    change(CAMERA, sizes={(1, 1)}, frame_ids={"nose"}, ages_ns=[-(10**12)])(topics)
    change(JOINTS, messages=0)(topics)
    assert len(faults_of(topics, (90.0, 90.0, 0.0))) == 6


def test_a_rate_is_not_fooled_by_a_lost_frame_and_a_path_without_a_number_is_named() -> None:
    topics = fitting()
    change(CAMERA, stamps_ns=[0, 33 * MS, 66 * MS, 900 * MS, 933 * MS])(topics)
    assert faults_of(topics) == []
    (fault,) = faults(live(fitting(), missing=("y",)))
    assert "no number for ['y']; correct their `path`" in fault
