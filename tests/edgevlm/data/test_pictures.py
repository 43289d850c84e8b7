"""`format` of a CompressedImage means something; one bad picture is left out by all who read, many are refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.picture_files import jpeg, png, scene

from edgevlm.data import LogWriter, read_log
from edgevlm.data.base import FrameEvent, InstructionEvent
from edgevlm.data.stream import open_stream
from edgevlm.errors import ContractError, EdgevlmError, LogError, ShapeError
from edgevlm.manifest.contract import CHANNELS, CameraSpec, Contract, check_frame
from edgevlm.rosmsg.camera import CameraMessage

SECOND_NS = 1_000_000_000
COLOUR, GREY = jpeg(scene()), jpeg(cv2.cvtColor(scene(), cv2.COLOR_BGR2GRAY))
DEEP = png(scene().astype(np.uint16) * 4)


def message(form: str, data: bytes) -> CameraMessage:
    return CameraMessage(1, "", True, form, 0, 0, 0, memoryview(data))


@pytest.mark.parametrize(
    ("form", "data", "encoding"),
    [
        ("jpeg", COLOUR, "rgb8"),
        ("", COLOUR, "rgb8"),
        ("rgb8; jpeg compressed bgr8", COLOUR, "rgb8"),
        ("yuv422_yuy2; jpeg compressed bgr8", COLOUR, "rgb8"),
        ("bayer_rggb8; jpeg compressed bgr8", COLOUR, "rgb8"),
        ("mono8; jpeg compressed mono8", GREY, "rgb8"),
        ("mono8; jpeg compressed ", GREY, "mono8"),
        ("yuv422_yuy2; jpeg compressed mono8", GREY, "mono8"),
        ("jpeg", GREY, "mono8"),
        ("rgb8; png compressed bgr8", png(scene()), "rgb8"),
    ],
)
def test_a_format_that_fits_is_decoded(form: str, data: bytes, encoding: str) -> None:
    assert message(form, data).picture(encoding).shape[:2] == (48, 64)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("form", "data", "encoding", "words"),
    [
        ("yuv422_yuy2; jpeg compressed mono8", GREY, "rgb8", "grey only"),
        ("yuv422_yuy2; jpeg compressed ", GREY, "bgr8", "grey only"),
        ("jpeg", GREY, "rgb8", "grey only"),
        ("rgb8; jpeg compressed bgr8", GREY, "rgb8", "grey only"),
        ("bayer_rggb8; jpeg compressed ", GREY, "mono8", "mosaic"),
        ("rgb8; jpeg compressed rgb8", COLOUR, "rgb8", "red and blue"),
        ("mono16; png compressed mono16", DEEP, "rgb8", "8 bits"),
        ("png", DEEP, "rgb8", "8 bits"),
        ("bgr16; jpeg compressed bgr8", COLOUR, "rgb8", "8 bits"),
        ("16UC1; compressedDepth", COLOUR, "rgb8", "depth"),
        ("32FC1; compressedDepth png", COLOUR, "rgb8", "depth"),
        ("16UC1; png compressed ", DEEP, "mono8", "depth"),
        ("16UC1; compressedDepth png", bytes(12) + DEEP, "rgb8", "depth"),  # behind a header of its own
        ("webp", b"RIFF....WEBP", "rgb8", "its format is 'webp'"),
    ],
)
def test_a_format_that_means_other_pixels_is_refused(form: str, data: bytes, encoding: str, words: str) -> None:
    with pytest.raises(EdgevlmError, match=words):
        message(form, data).picture(encoding)  # type: ignore[arg-type]


def raw(encoding: str, height: int, width: int) -> CameraMessage:
    """Rows with eight bytes of padding."""
    step = width * CHANNELS[encoding] + 8
    pixels = np.arange(height * step, dtype=np.uint8).tobytes()
    return CameraMessage(1, "", False, encoding, height, width, step, memoryview(pixels))


@pytest.mark.parametrize("encoding", list(CHANNELS))
@pytest.mark.parametrize("sent", [*CHANNELS, "jpeg"])
def test_a_frame_of_a_message_fits_its_camera(sent: str, encoding: str) -> None:
    camera = CameraSpec(name="front", width=64, height=48, encoding=encoding, rate_hz=(5, 30))  # type: ignore[arg-type]
    frame = message("jpeg", COLOUR).frame(camera) if sent == "jpeg" else raw(sent, 48, 64).frame(camera)
    assert check_frame(camera, frame) is frame
    with pytest.raises(ShapeError, match="64x48"):
        (message("jpeg", COLOUR) if sent == "jpeg" else raw(sent, 48, 64)).frame(
            camera.model_copy(update={"width": 32})
        )


def record(
    path: Path, pictures: list[bytes], instructions: dict[int, str | bytes] | None = None, form: str = "jpeg"
) -> Path:
    """Camera `left` compressed, ten frames a second; instructions by the frame before which they come."""
    text_at = instructions or {0: "go"}
    with LogWriter(path) as log:
        for frame, data in enumerate(pictures):
            stamp_ns = 5 * SECOND_NS + frame * SECOND_NS // 10
            text = text_at.get(frame)
            if isinstance(text, str):
                log.string("/instruction", stamp_ns - 2, text)
            elif text is not None:
                log.raw("/instruction", "std_msgs/msg/String", text, stamp_ns - 2)
            log.joints("/joint_states", stamp_ns - 1, {"a": 1.0, "b": 2.0})
            log.compressed_image("/left/image_raw/compressed", stamp_ns, data, form=form)
            log.image("/right/image_raw", stamp_ns, np.zeros((4, 4), np.uint8), encoding="mono8")
    return path


SMALL = [png(scene((6, 8), seed)) for seed in range(40)]


@pytest.mark.parametrize("bad", [SMALL[0][:-20], b"no picture", png(scene((6, 9))), DEEP])
@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_a_few_bad_pictures_are_left_out_and_more_refused_by_both_readers(
    tmp_path: Path, contract: Contract, bad: bytes, count: int
) -> None:
    pictures = list(SMALL)
    for number in range(count):
        pictures[39 - number] = bad
    path = record(tmp_path / "log.mcap", pictures)
    if count > 2:  # 5 % of 40
        for read in (lambda: read_log(path, contract), lambda: list(open_stream(path, contract))):
            with pytest.raises((ContractError, LogError), match=r"/left/image_raw/compressed"):
                read()
        return
    recording = read_log(path, contract)
    assert sum(len(episode) for episode in recording.episodes) == 40 - count
    assert len(list(recording.observations(recording.episodes[0]))) == 40 - count
    stream = open_stream(path, contract)
    assert sum(isinstance(event, FrameEvent) and event.camera == "left" for event in stream) == 40 - count
    for warnings in (recording.warnings, stream.warnings):
        assert any(f"{count} of 40 damaged picture(s) left out" in warning for warning in warnings)


def test_a_recorded_depth_topic_is_refused_as_depth_whatever_its_bytes_are(tmp_path: Path, contract: Contract) -> None:
    path = record(tmp_path / "log.mcap", [bytes(12) + DEEP] * 10, form="16UC1; compressedDepth png")
    for read in (lambda: read_log(path, contract), lambda: list(open_stream(path, contract))):
        with pytest.raises(LogError, match=r"holds depth.*map the colour topic"):
            read()


def test_the_same_instruction_again_does_not_begin_an_episode(tmp_path: Path, contract: Contract) -> None:
    path = record(tmp_path / "log.mcap", SMALL, {0: "go", 4: "go", 8: "go ", 12: "stop", 16: "", 20: "stop"})
    episodes = read_log(path, contract).episodes
    assert [(one.instruction, len(one)) for one in episodes] == [("go", 12), ("stop", 4), ("stop", 20)]


def test_an_instruction_that_cannot_be_decoded_ends_the_one_before(tmp_path: Path, contract: Contract) -> None:
    path = record(tmp_path / "log.mcap", SMALL, {0: "go", 10: b"\0\1\0\0\xff\xff\xff\xff", 20: "go"})
    recording = read_log(path, contract)
    assert [(one.instruction, len(one)) for one in recording.episodes] == [("go", 10), ("go", 20)]
    assert any("ends the instruction" in warning for warning in recording.warnings)
    assert [event.text for event in open_stream(path, contract) if isinstance(event, InstructionEvent)] == [
        "go",
        None,
        "go",
    ]


def test_an_empty_compressed_channel_is_not_preferred_to_a_full_raw_one(tmp_path: Path, contract: Contract) -> None:
    path = tmp_path / "log.mcap"
    with LogWriter(path) as log:
        log.string("/instruction", 1, "go")
        # what a recorder declares for a topic that nobody publishes on
        schema, _ = log._next("/left/image_raw/compressed", "sensor_msgs/msg/CompressedImage")
        log._writer._writer.register_channel("/left/image_raw/compressed", "cdr", schema.id)
        log.joints("/joint_states", SECOND_NS - 1, {"a": 1.0, "b": 2.0})
        log.image("/left/image_raw", SECOND_NS, scene((6, 8)), encoding="bgr8")
        log.image("/right/image_raw", SECOND_NS, np.zeros((4, 4), np.uint8), encoding="mono8")
    recording = read_log(path, contract)
    assert recording.topics.cameras["left"] == "/left/image_raw"
