"""A robot that knows nothing of the convention, mapped by one YAML file."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgevlm.data import LogWriter, read_log
from edgevlm.errors import LogError
from edgevlm.images.encodings import view
from edgevlm.manifest.contract import CameraSpec, Contract, Encoding, StateField, StateSpec
from edgevlm.rosmsg import camera as frames
from edgevlm.rosmsg.camera import reorder
from edgevlm.rosmsg.topic_map import StateSource, TopicMap, default_topics, load_topics, topics_beside

START_NS = 5_000_000_000
Picture = Callable[[int], NDArray[np.uint8]]
ENCODINGS: tuple[Encoding, ...] = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8")
YAML = """
cameras:
  left: /zed/left/image_rect
  right: /wrist/image/compressed
state:
  a: {topic: /arm/joints, joint: elbow, unit: deg}
  b: {topic: /tool/pose, path: pose.position.z, unit: mm}
instruction: /voice/text
"""


@pytest.fixture
def foreign(contract: Contract) -> Contract:
    """State b becomes a length; the right camera delivers bgr8 of 8x6."""
    assert contract.state is not None
    left, _ = contract.cameras
    right = CameraSpec(name="right", width=8, height=6, encoding="bgr8", rate_hz=(10, 10))
    state = StateSpec(fields=(contract.state.fields[0], StateField(name="b", unit="m")))
    return contract.model_copy(update={"cameras": (left, right), "state": state})


@pytest.fixture
def log(tmp_path: Path, picture: Picture) -> Path:
    """Left: a bgr8 Image with padded rows; right: PNG; joints in degrees among others, a tool pose in millimetres."""
    path = tmp_path / "run.mcap"
    with LogWriter(path) as writer:
        writer.string("/voice/text", START_NS, "pick it up")
        writer.joints("/arm/joints", START_NS, {"wrist": 1.0, "elbow": 90.0, "base": 2.0})
        writer.pose("/tool/pose", START_NS + 1_000_000, (0.0, 0.0, 250.0))
        bgr = np.ascontiguousarray(picture(3)[:, :, ::-1])
        writer.image("/zed/left/image_rect", START_NS + 2_000_000, bgr, encoding="bgr8", padding=5)
        png = cv2.imencode(".png", picture(4)[:, :, ::-1])[1].tobytes()
        writer.compressed_image("/wrist/image/compressed", START_NS + 2_000_000, png, form="rgb8; png compressed bgr8")
    return path


def test_one_yaml_next_to_the_log_maps_everything(log: Path, foreign: Contract, picture: Picture) -> None:
    topics_beside(log).write_text(YAML)
    recording = read_log(log, foreign)
    observation = recording.observation(recording.episodes[0], 0)
    assert observation.instruction == "pick it up"
    assert np.array_equal(observation.frames["left"].value, picture(3))
    assert np.array_equal(observation.frames["right"].value, picture(4)[:, :, ::-1])
    assert observation.state is not None
    assert observation.state.value == pytest.approx([math.pi / 2, 0.25])
    assert observation.state.stamp_ns == START_NS


def test_a_map_passed_by_hand_wins_over_the_one_next_to_the_log(log: Path, foreign: Contract, tmp_path: Path) -> None:
    topics_beside(log).write_text("cameras: {}\ninstruction: /none\n")
    other = tmp_path / "other.yaml"
    other.write_text(YAML)
    assert read_log(log, foreign, load_topics(other)).episodes
    with pytest.raises(LogError, match="cameras: expected exactly"):
        read_log(log, foreign)


def test_without_a_map_the_topics_of_the_log_are_listed(log: Path, foreign: Contract) -> None:
    with pytest.raises(LogError, match=r"/zed/left/image_rect \(sensor_msgs/msg/Image\).*run\.topics\.yaml"):
        read_log(log, foreign)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("instruction: /voice/text", "speech: /voice/text"), "speech|instruction"),
        (("joint: elbow", "joint: elbow, path: data"), "not both"),
        (("path: pose.position.z", "path: pose..z"), "is none such as"),
        (("left: /zed", "front: /zed"), r"missing \['left'\], unknown \['front'\]"),
        (("unit: deg", "unit: mm"), "cannot turn 'mm' into the contract's 'rad'"),
        (("unit: mm", "unit: furlong"), "unit: expected one of .* got 'furlong'"),
        (("path: pose.position.z", "path: pose.height"), r"ends at 'height'; there are \['orientation', 'position'\]"),
        (("joint: elbow", "joint: knee"), r"joints \['knee'\] are missing, it has base, elbow, wrist"),
        (("/arm/joints, joint", "/tool/pose, joint"), "expected sensor_msgs/msg/JointState"),
        (("cameras:", "cameras: ["), "expected YAML"),
    ],
)  # fmt: skip
def test_a_wrong_map_is_refused_with_the_reason(
    log: Path, foreign: Contract, change: tuple[str, str], words: str
) -> None:
    topics_beside(log).write_text(YAML.replace(*change))
    with pytest.raises(LogError, match=words):
        read_log(log, foreign)


@pytest.mark.parametrize("text", ["", "[]", "3", "a: b", "\x00"])
def test_yaml_that_is_no_map_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "topics.yaml").write_text(text)
    with pytest.raises(LogError, match=r"topics\.yaml"):
        load_topics(tmp_path / "topics.yaml")


def test_a_missing_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot be read"):
        load_topics(tmp_path / "none.yaml")


def test_the_convention_takes_the_camera_topic_that_was_recorded(contract: Contract) -> None:
    both = default_topics(contract, ["/left/image_raw", "/left/image_raw/compressed", "/right/image_raw"])
    assert both.cameras == {"left": "/left/image_raw/compressed", "right": "/right/image_raw"}
    assert both.state["a"] == StateSource(topic="/joint_states", joint="a")
    assert TopicMap.model_validate(both.model_dump()) == both


@pytest.mark.parametrize("have", ENCODINGS)
@pytest.mark.parametrize("want", ENCODINGS)
def test_encodings_convert_as_opencv_does(have: Encoding, want: Encoding) -> None:
    rng = np.random.default_rng(0)
    names = {"rgb8": "RGB", "bgr8": "BGR", "rgba8": "RGBA", "bgra8": "BGRA", "mono8": "GRAY"}
    channels = len(names[have]) if have != "mono8" else 0
    image = rng.integers(0, 256, (5, 7, channels) if channels else (5, 7), np.uint8)
    if have == want:
        return
    code = getattr(cv2, f"COLOR_{names[have]}2{names[want]}")
    converted = cv2.cvtColor(image, code)
    got = reorder(image, have, want)
    assert got.shape == converted.shape and got.dtype == np.uint8
    assert np.abs(got.astype(int) - converted.astype(int)).max() <= (1 if want == "mono8" else 0)


def test_channels_are_swapped_alike_with_and_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in rows with padding that may not be written to, as they come from the wire."""
    padded = np.random.default_rng(3).integers(0, 256, (7, 40), np.uint8)
    image = view(padded.tobytes(), 7, 11, "bgr8", 40)
    with_opencv = reorder(image, "bgr8", "rgb8")
    monkeypatch.setattr(frames, "_opencv", lambda: None)
    assert np.array_equal(with_opencv, image[:, :, ::-1])
    assert np.array_equal(reorder(image, "bgr8", "rgb8"), with_opencv)


@pytest.mark.parametrize(("unit", "carried"), [("deg", "rad"), ("mm", "m"), ("%", "1"), ("rpm", "rad/s")])
def test_a_contract_that_is_not_in_si_needs_the_unit_of_the_message(
    contract: Contract, unit: str, carried: str
) -> None:
    assert contract.state is not None
    fields = tuple(field.model_copy(update={"unit": unit}) for field in contract.state.fields)
    other = contract.model_copy(update={"state": contract.state.model_copy(update={"fields": fields})})
    topics = default_topics(other)
    with pytest.raises(LogError, match=rf"contract's unit is '{unit}', .*`unit: {carried}`.*`unit: {unit}`"):
        topics.check(other)


@pytest.mark.parametrize(
    ("quantity", "unit", "stated"),
    [("velocity", "rad", ""), ("position", "rad/s", ""), ("effort", "rad", ""), ("velocity", "rad", "deg")],
)
def test_a_joint_s_quantity_and_the_contract_s_unit_must_be_of_one_kind(
    contract: Contract, quantity: str, unit: str, stated: str
) -> None:
    assert contract.state is not None
    fields = tuple(field.model_copy(update={"unit": unit}) for field in contract.state.fields)
    other = contract.model_copy(update={"state": contract.state.model_copy(update={"fields": fields})})
    plain = default_topics(other)
    sources = {name: one.model_copy(update={"quantity": quantity, "unit": stated}) for name, one in plain.state.items()}
    with pytest.raises(LogError, match="by convention"):
        plain.model_copy(update={"state": sources}).check(other)
