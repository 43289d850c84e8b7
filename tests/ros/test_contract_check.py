"""A contract against what is live: refused before activation with every fault, warned of the rest."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from sensor_msgs.msg import JointState
from support.live_topics import CAMERA, LIMITS, MS, TOPICS, change, contract, fitting, live

from edgevlm.errors import ContractError
from edgevlm.rosmsg.topic_facts import uneven
from edgevlm_ros.policy_node import check_live


def test_joint_lists_that_do_not_belong_together_are_warnings() -> None:
    assert uneven(JointState(name=["a", "b"], position=[1.0, 2.0])) == ""
    assert "2 names, got 1 in position" in uneven(JointState(name=["a", "b"], position=[1.0]))
    assert "['a'] are named twice" in uneven(JointState(name=["a", "a"], position=[1.0, 2.0]))


def test_activation_is_refused_with_every_fault_and_warned_of_the_rest() -> None:
    topics, warnings = fitting(), list[str]()
    change(CAMERA, sizes={(1, 1)}, frame_ids={"nose"})(topics)
    with pytest.raises(ContractError, match=r"2 fault\(s\) between the contract and the live topics:\n  - camera"):
        check_live(contract(), TOPICS, live(topics), LIMITS, warnings.append)
    stamps = [33 * MS * index for index in (0, 1, 2, 2, 3, 4)]
    topics = fitting()
    change(CAMERA, stamps_ns=stamps)(topics)
    check_live(contract(), TOPICS, live(topics), LIMITS, warnings.append)
    assert warnings == [
        "camera 'front', topic /r/front/image_raw: 1 of 6 frames have a stamp that had come already; "
        "the first of each is used"
    ]
