"""Recordings by the convention: episodes, stamps, what is left out, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgevlm.data import LogWriter, read_log
from edgevlm.errors import LogError, ShapeError
from edgevlm.manifest.contract import Contract
from edgevlm.rosmsg.topic_map import StateSource, TopicMap

SECOND_NS = 1_000_000_000
START_NS = 5 * SECOND_NS
Record = Callable[..., Path]
Picture = Callable[[int], NDArray[np.uint8]]


def gray(number: int) -> NDArray[np.uint8]:
    return np.full((4, 4), number, np.uint8)


def test_an_episode_starts_at_each_instruction(record: Record, contract: Contract) -> None:
    recording = read_log(record(episodes=3, frames=4), contract)
    assert [episode.instruction for episode in recording.episodes] == ["task 0", "task 1", "task 2"]
    assert [len(episode) for episode in recording.episodes] == [4, 4, 4]
    assert recording.warnings == ()


def test_observations_have_the_frames_and_the_newest_state_before_them(
    record: Record, contract: Contract, picture: Picture
) -> None:
    recording = read_log(record(episodes=2, frames=5), contract)
    number = 0
    for episode in recording.episodes:
        for observation in recording.observations(episode):
            stamp_ns = START_NS + number * SECOND_NS // 10
            assert observation.instruction == episode.instruction
            assert observation.frames["left"].stamp_ns == stamp_ns
            assert observation.frames["right"].stamp_ns == stamp_ns + 5_000_000
            assert np.array_equal(observation.frames["left"].value, picture(number))
            assert np.array_equal(observation.frames["right"].value, gray(number))
            assert observation.state is not None
            assert observation.state.stamp_ns == stamp_ns - 1_000_000
            assert observation.state.value.tolist() == [number, number + 0.5]
            number += 1
    assert number == 10


def test_one_observation_can_be_read_alone(record: Record, contract: Contract) -> None:
    recording = read_log(record(), contract)
    alone = recording.observation(recording.episodes[1], 3)
    inside = list(recording.observations(recording.episodes[1]))[3]
    assert np.array_equal(alone.frames["left"].value, inside.frames["left"].value)
    assert alone.frames["left"].stamp_ns == inside.frames["left"].stamp_ns


def test_header_stamps_count_and_log_times_do_not(tmp_path: Path, contract: Contract, picture: Picture) -> None:
    """Messages logged late and out of order: matched by when they were sensed."""
    path = tmp_path / "late.mcap"
    with LogWriter(path) as log:
        log.string("/instruction", START_NS, "go")
        log.image("/left/image_raw", START_NS + 100_000_000, picture(1), encoding="rgb8")
        log.image("/left/image_raw", START_NS, picture(0), encoding="rgb8")
        for number in (1, 0):
            log.image("/right/image_raw", START_NS + number * 100_000_000, gray(number), encoding="mono8")
        log.joints("/joint_states", START_NS + 100_000_000, {"a": 1.0, "b": 1.0})
        log.joints("/joint_states", START_NS, {"a": 0.0, "b": 0.0})
    recording = read_log(path, contract)
    values = [o.state.value[0] for o in recording.observations(recording.episodes[0]) if o.state]
    assert values == [0.0, 1.0]


def test_a_simulated_clock_that_starts_again_begins_a_new_episode(
    tmp_path: Path, contract: Contract, picture: Picture
) -> None:
    path = tmp_path / "restart.mcap"
    with LogWriter(path, log_clock=iter(range(1000)).__next__) as log:
        for episode in range(2):
            log.string("/instruction", SECOND_NS, f"task {episode}")
            for frame in range(3):
                stamp_ns = SECOND_NS + frame * 100_000_000
                log.joints("/joint_states", stamp_ns, {"a": episode, "b": frame})
                log.image("/left/image_raw", stamp_ns, picture(frame), encoding="rgb8")
                log.image("/right/image_raw", stamp_ns, gray(frame), encoding="mono8")
    recording = read_log(path, contract)
    assert [len(episode) for episode in recording.episodes] == [3, 3]
    states = [o.state.value.tolist() for o in recording.observations(recording.episodes[1]) if o.state]
    assert states == [[1, 0], [1, 1], [1, 2]]


def test_frames_without_a_partner_or_a_state_are_left_out_and_counted(
    tmp_path: Path, contract: Contract, picture: Picture
) -> None:
    path = tmp_path / "gaps.mcap"
    with LogWriter(path) as log:
        log.string("/instruction", START_NS, "go")
        for frame in range(6):
            stamp_ns = START_NS + frame * 100_000_000
            if frame >= 1:  # the first frame has no state
                log.joints("/joint_states", stamp_ns, {"a": frame, "b": 0.0})
            log.image("/left/image_raw", stamp_ns, picture(frame), encoding="rgb8")
            apart_ns = 31_000_000 if frame == 3 else 30_000_000  # the tolerance is 30 ms
            log.image("/right/image_raw", stamp_ns - apart_ns, gray(frame), encoding="mono8")
    recording = read_log(path, contract)
    stamps = [o.frames["left"].stamp_ns for o in recording.observations(recording.episodes[0])]
    assert [(stamp_ns - START_NS) // 100_000_000 for stamp_ns in stamps] == [1, 2, 4, 5]
    assert "2 frame(s) left out" in recording.warnings[0]


def test_a_state_older_than_the_window_forgives_is_left_out(
    tmp_path: Path, contract: Contract, picture: Picture
) -> None:
    path = tmp_path / "stale.mcap"
    with LogWriter(path) as log:
        log.string("/instruction", START_NS, "go")
        log.joints("/joint_states", START_NS, {"a": 0.0, "b": 0.0})
        for number in range(16):
            stamp_ns = START_NS + number * SECOND_NS // 10
            log.image("/left/image_raw", stamp_ns, picture(0), encoding="rgb8")
            log.image("/right/image_raw", stamp_ns, gray(0), encoding="mono8")
    assert len(read_log(path, contract).episodes[0]) == 11


def test_joint_states_of_several_publishers_are_put_together(
    tmp_path: Path, contract: Contract, picture: Picture
) -> None:
    """Arm and gripper often publish apart on one topic."""
    path = tmp_path / "apart.mcap"
    with LogWriter(path) as log:
        log.string("/instruction", START_NS, "go")
        log.joints("/joint_states", START_NS, {"a": 1.0})
        log.joints("/joint_states", START_NS + 1_000_000, {"b": 2.0})
        log.image("/left/image_raw", START_NS + 2_000_000, picture(0), encoding="rgb8")
        log.image("/right/image_raw", START_NS + 2_000_000, gray(0), encoding="mono8")
    observation = next(read_log(path, contract).observations(read_log(path, contract).episodes[0]))
    assert observation.state is not None and observation.state.value.tolist() == [1.0, 2.0]
    assert observation.state.stamp_ns == START_NS


def test_a_state_that_is_not_finite_is_left_out_and_reported(
    tmp_path: Path, contract: Contract, picture: Picture
) -> None:
    path = tmp_path / "nan.mcap"
    with LogWriter(path) as log:
        log.string("/instruction", START_NS, "go")
        log.joints("/joint_states", START_NS, {"a": 1.0, "b": 2.0})
        log.joints("/joint_states", START_NS + 1_000_000, {"a": float("nan"), "b": 3.0})
        log.image("/left/image_raw", START_NS + 2_000_000, picture(0), encoding="rgb8")
        log.image("/right/image_raw", START_NS + 2_000_000, gray(0), encoding="mono8")
    recording = read_log(path, contract)
    observation = recording.observation(recording.episodes[0], 0)
    assert observation.state is not None and observation.state.value.tolist() == [1.0, 3.0]
    assert any("'a': left out 1 NaN" in warning for warning in recording.warnings)


def test_stamps_that_no_driver_set_are_replaced_and_reported(
    tmp_path: Path, contract: Contract, picture: Picture
) -> None:
    path = tmp_path / "zero.mcap"
    with LogWriter(path, log_clock=iter(range(START_NS, START_NS + 100)).__next__) as log:
        log.string("/instruction", 0, "go")
        log.joints("/joint_states", 0, {"a": 1.0, "b": 2.0})
        log.image("/left/image_raw", 0, picture(0), encoding="rgb8")
        log.image("/right/image_raw", 0, gray(0), encoding="mono8")
    recording = read_log(path, contract)
    assert recording.observation(recording.episodes[0], 0).frames["left"].stamp_ns == START_NS + 2
    assert sum("every header stamp is 0" in warning for warning in recording.warnings) == 2


def test_missing_topics_are_refused_with_those_of_the_log(tmp_path: Path, contract: Contract, picture: Picture) -> None:
    path = tmp_path / "foreign.mcap"
    with LogWriter(path) as log:
        log.image("/zed/image", START_NS, picture(0), encoding="rgb8")
        log.string("/instruction", START_NS, "go")
    with pytest.raises(LogError) as caught:
        read_log(path, contract)
    for part in (
        "/joint_states for state 'a'",
        "/left/image_raw/compressed for camera 'left'",
        "/zed/image (sensor_msgs/msg/Image)",
        "/instruction (std_msgs/msg/String)",
        "foreign.topics.yaml",
    ):
        assert part in str(caught.value)


def test_a_topic_of_the_wrong_type_is_refused(record: Record, contract: Contract) -> None:
    topics = TopicMap(
        cameras={"left": "/left/image_raw", "right": "/instruction"},
        state={name: StateSource(topic="/joint_states", joint=name) for name in "ab"},
        instruction="/instruction",
    )
    with pytest.raises(LogError, match=r"camera 'right': expected sensor_msgs/msg/Image .* got std_msgs/msg/String"):
        read_log(record(), contract, topics)


def test_no_instruction_is_refused(tmp_path: Path, contract: Contract, picture: Picture) -> None:
    path = tmp_path / "silent.mcap"
    with LogWriter(path) as log:
        log.joints("/joint_states", START_NS, {"a": 1.0, "b": 2.0})
        log.image("/left/image_raw", START_NS, picture(0), encoding="rgb8")
        log.image("/right/image_raw", START_NS, gray(0), encoding="mono8")
        log.string("/instruction", START_NS + SECOND_NS, "too late")
    with pytest.raises(LogError, match=r"1 of 1 episodes have no usable observation"):
        read_log(path, contract)


def test_a_joint_that_never_comes_is_refused_with_those_that_do(
    tmp_path: Path, contract: Contract, picture: Picture
) -> None:
    path = tmp_path / "joints.mcap"
    with LogWriter(path) as log:
        log.string("/instruction", START_NS, "go")
        log.joints("/joint_states", START_NS, {"a": 1.0, "elbow": 2.0})
        log.image("/left/image_raw", START_NS, picture(0), encoding="rgb8")
        log.image("/right/image_raw", START_NS, gray(0), encoding="mono8")
    with pytest.raises(LogError, match=r"joints \['b'\] are missing, it has a, elbow"):
        read_log(path, contract)


def test_a_camera_of_another_size_is_refused_when_opening(tmp_path: Path, contract: Contract) -> None:
    path = tmp_path / "large.mcap"
    with LogWriter(path) as log:
        log.string("/instruction", START_NS, "go")
        log.joints("/joint_states", START_NS, {"a": 1.0, "b": 2.0})
        log.image("/left/image_raw", START_NS, np.zeros((12, 16, 3), np.uint8), encoding="rgb8")
        log.image("/right/image_raw", START_NS, gray(0), encoding="mono8")
    with pytest.raises(ShapeError, match=r"topic /left/image_raw: expected 8x6, got 16x12"):
        read_log(path, contract)


def test_a_broken_jpeg_names_its_topic_and_stamp(tmp_path: Path, contract: Contract, picture: Picture) -> None:
    path = tmp_path / "broken.mcap"
    jpeg = cv2.imencode(".jpg", picture(0))[1].tobytes()
    with LogWriter(path) as log:
        log.string("/instruction", START_NS, "go")
        for frame, data in enumerate((jpeg, jpeg[: len(jpeg) // 2])):
            stamp_ns = START_NS + frame * 100_000_000
            log.joints("/joint_states", stamp_ns, {"a": 1.0, "b": 2.0})
            log.compressed_image("/left/image_raw/compressed", stamp_ns, data)
            log.image("/right/image_raw", stamp_ns, gray(0), encoding="mono8")
    recording = read_log(path, contract)
    assert len(recording.episodes[0]) == 1
    assert any("/left/image_raw/compressed: 1 of 2" in one and "5100000000 ns" in one for one in recording.warnings)


def test_a_frame_that_serves_two_observations_is_read_once(
    tmp_path: Path, contract: Contract, picture: Picture
) -> None:
    path = tmp_path / "slow.mcap"
    with LogWriter(path) as log:
        log.string("/instruction", START_NS, "go")
        log.joints("/joint_states", START_NS, {"a": 1.0, "b": 2.0})
        log.image("/right/image_raw", START_NS, gray(7), encoding="mono8")
        for frame in range(2):
            log.image("/left/image_raw", START_NS + frame * 20_000_000, picture(frame), encoding="rgb8")
    recording = read_log(path, contract)
    first, second = recording.observations(recording.episodes[0])
    assert first.frames["right"] is second.frames["right"]
