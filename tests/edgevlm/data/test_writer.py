"""Recordings that other ROS 2 tools read, always the same, and never half there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

from edgevlm.data import LogWriter
from edgevlm.errors import LogError, OutputError, ShapeError

Record = Callable[..., Path]
STAMP_NS = 3_000_000_007


def decoded(path: Path) -> list[tuple[str, Any, Any]]:
    """(schema name, message, decoded) of every message, by the library's own seeking reader."""
    with path.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        return [(schema.name, message, value) for schema, _, message, value in reader.iter_decoded_messages() if schema]


def test_every_kind_of_message_is_read_back_by_the_library(tmp_path: Path) -> None:
    path = tmp_path / "all.mcap"
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    with LogWriter(path) as log:
        log.string("/say", STAMP_NS, "grüß dich")
        log.pose("/hand", STAMP_NS, (1.0, 2.0, 3.0), (0.0, 0.0, 1.0, 0.0), frame_id="base")
        log.joints("/joints", STAMP_NS, {"j2": 0.5, "j1": -0.5}, velocity=(1.0, 2.0))
        log.image("/raw", STAMP_NS, image, encoding="bgr8", padding=4, frame_id="cam")
        log.compressed_image("/jpeg", STAMP_NS, b"\xff\xd8\xff", form="jpeg")
    messages = {message.channel_id: (name, value) for name, message, value in decoded(path)}
    (_, say), (pose_type, hand), (_, joints), (raw_type, raw), (_, jpeg) = (messages[i] for i in range(1, 6))
    assert say.data == "grüß dich"
    assert pose_type == "geometry_msgs/msg/PoseStamped" and raw_type == "sensor_msgs/msg/Image"
    assert (hand.pose.position.x, hand.pose.position.z, hand.pose.orientation.z) == (1.0, 3.0, 1.0)
    assert (hand.header.stamp.sec, hand.header.stamp.nanosec, hand.header.frame_id) == (3, 7, "base")
    assert (joints.name, joints.position, joints.velocity) == (["j2", "j1"], [0.5, -0.5], [1.0, 2.0])
    assert (raw.height, raw.width, raw.encoding, raw.step) == (2, 4, "bgr8", 16)
    assert np.array_equal(np.frombuffer(raw.data, np.uint8).reshape(2, 16)[:, :12], image.reshape(2, 12))
    assert (jpeg.format, bytes(jpeg.data)) == ("jpeg", b"\xff\xd8\xff")


def test_log_times_are_the_stamps_and_sequences_count_per_topic(record: Record) -> None:
    messages = decoded(record(episodes=1, frames=3))
    joints = [message for name, message, _ in messages if name == "sensor_msgs/msg/JointState"]
    assert [message.sequence for message in joints] == list(range(1, 7))
    frames = [(message, value) for name, message, value in messages if name == "sensor_msgs/msg/Image"]
    assert all(m.log_time == v.header.stamp.sec * 10**9 + v.header.stamp.nanosec for m, v in frames)


def test_the_same_calls_give_the_same_bytes(record: Record) -> None:
    one, two = record(name="one.mcap"), record(name="two.mcap")
    other = record(name="other.mcap", frames=6)
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (one, two, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_exception_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), LogWriter(tmp_path / "log.mcap") as log:
        log.string("/say", STAMP_NS, "hello")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_recording_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "log.mcap"
    path.write_bytes(b"earlier")
    with LogWriter(path) as log:
        log.string("/say", STAMP_NS, "hello")
        assert path.read_bytes() == b"earlier"
    assert path.read_bytes() != b"earlier" and list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        LogWriter(tmp_path / "file" / "log.mcap")


def test_a_topic_keeps_its_type(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"/say: expected std_msgs/msg/String"), LogWriter(tmp_path / "log.mcap") as log:
        log.string("/say", STAMP_NS, "hello")
        log.joints("/say", STAMP_NS, {"a": 1.0})


@pytest.mark.parametrize(
    ("image", "encoding"),
    [
        (np.zeros((2, 2, 3), np.uint8), "mono8"),
        (np.zeros((2, 2), np.uint8), "rgb8"),
        (np.zeros((2, 2, 3), np.float32), "rgb8"),
        (np.zeros((2, 2, 3), np.uint8), "yuv422"),
        (np.zeros(12, np.uint8), "rgb8"),
    ],
)
def test_a_picture_must_fit_its_encoding(tmp_path: Path, image: Any, encoding: str) -> None:
    with pytest.raises(ShapeError, match="expected uint8"), LogWriter(tmp_path / "log.mcap") as log:
        log.image("/raw", STAMP_NS, image, encoding=encoding)


def test_a_stamp_before_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="before 0"), LogWriter(tmp_path / "log.mcap") as log:
        log.joints("/joints", -1, {"a": 1.0})
