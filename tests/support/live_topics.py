"""Facts about the topics of a small contract: those that fit it, and one change at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from support import tiny

from edgevlm.manifest.contract import Contract
from edgevlm.rosmsg.contract_check import Limits
from edgevlm.rosmsg.schemas import IMAGE, JOINT_STATE, POSE_STAMPED
from edgevlm.rosmsg.topic_facts import Facts, TopicFacts
from edgevlm.rosmsg.topic_map import StateSource, TopicMap

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


def observed(name: str, type_name: str, rate_hz: float = 30.0, age_ms: float = 5.0) -> TopicFacts:
    stamps = [round(index * 1e9 / rate_hz) for index in range(6)]
    ages = [round(age_ms * MS)] * 6
    return TopicFacts(f"/r/{name}", (("/r/driver", type_name),), messages=6, stamps_ns=stamps, ages_ns=ages)


def fitting() -> dict[str, TopicFacts]:
    camera, joints, pose = observed(CAMERA, IMAGE), observed(JOINTS, JOINT_STATE), observed(POSE, POSE_STAMPED)
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


def change(topic: str, **attributes: object) -> Callable[[dict[str, TopicFacts]], None]:
    def apply(topics: dict[str, TopicFacts]) -> None:
        for key, value in attributes.items():
            setattr(topics[topic], key, value)

    return apply
