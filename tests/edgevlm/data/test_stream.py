"""A recording as events: in order, whole as far as it is, with the stamps of whatever clock it was made by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevlm.data import LogWriter
from edgevlm.data.base import Event, FrameEvent, InstructionEvent, StateEvent
from edgevlm.data.container import Container
from edgevlm.data.stream import Stream, open_stream
from edgevlm.errors import LogError, ShapeError
from edgevlm.manifest.contract import Contract

Record = Callable[..., Path]
SECOND_NS = 1_000_000_000


def instructions(stream: Stream) -> list[str | None]:
    return [event.text for event in stream if isinstance(event, InstructionEvent)]


def write(path: Path, frames: int = 3, *, stamp_ns: Callable[[int], int] = lambda log_ns: log_ns) -> Path:
    """One instruction, then states and pictures of both cameras at 10 Hz; stamps are made from the log times."""
    clock = {"now": 0}
    with LogWriter(path, log_clock=lambda: clock["now"]) as log:
        clock["now"] = 1_700_000_000 * SECOND_NS
        log.string("/instruction", 0, "go")
        for number in range(frames):
            clock["now"] += SECOND_NS // 10
            at = stamp_ns(clock["now"])
            log.joints("/joint_states", at, {"a": number, "b": 1.0})
            log.image("/right/image_raw", at, np.full((4, 4), number, np.uint8), encoding="mono8")
            log.image("/left/image_raw", at, np.full((6, 8, 3), number, np.uint8), encoding="rgb8")
    return path


def test_events_come_in_the_order_of_log_times_again_and_again(record: Record, contract: Contract) -> None:
    stream = open_stream(record(episodes=2, frames=3), contract)
    events: list[Event] = list(stream)
    assert [event.log_ns for event in events] == sorted(event.log_ns for event in events)
    kinds = [type(event).__name__ for event in events]
    assert (kinds.count("InstructionEvent"), kinds.count("FrameEvent"), kinds.count("StateEvent")) == (2, 12, 12)
    assert stream.first_ns == events[0].log_ns and stream.last_ns == events[-1].log_ns
    assert len(list(stream)) == len(events) and stream.warnings == ()


def test_the_state_is_complete_and_stamped_with_its_oldest_field(tmp_path: Path, contract: Contract) -> None:
    path = tmp_path / "log.mcap"
    with LogWriter(path) as log:
        log.string("/instruction", 0, "go")
        for at, joints in ((1, {"a": 1.0}), (2, {"b": 2.0}), (3, {"b": 3.0}), (4, {"a": 4.0}), (5, {"c": 9.0})):
            log.joints("/joint_states", at * SECOND_NS, joints)
        log.image("/left/image_raw", SECOND_NS, np.zeros((6, 8, 3), np.uint8), encoding="rgb8")
        log.image("/right/image_raw", SECOND_NS, np.zeros((4, 4), np.uint8), encoding="mono8")
    felt = [event for event in open_stream(path, contract) if isinstance(event, StateEvent)]
    # At 3 the oldest field is still the one of 1: the vector of that stamp is known already.
    assert [(event.state.value.tolist(), event.state.stamp_ns // SECOND_NS) for event in felt] == [
        ([1.0, 2.0], 1),
        ([4.0, 3.0], 3),
    ]


def test_states_that_are_not_finite_are_left_out_and_reported(tmp_path: Path, contract: Contract) -> None:
    path = write(tmp_path / "log.mcap")
    other = tmp_path / "nan.mcap"
    with LogWriter(other) as log:
        log.string("/instruction", 0, "go")
        log.joints("/joint_states", SECOND_NS, {"a": float("nan"), "b": 1.0})
        log.joints("/joint_states", 2 * SECOND_NS, {"a": 1.0, "b": 1.0})
        for topic, shape, encoding in (("/left", (6, 8, 3), "rgb8"), ("/right", (4, 4), "mono8")):
            log.image(f"{topic}/image_raw", SECOND_NS, np.zeros(shape, np.uint8), encoding=encoding)
    stream = open_stream(other, contract)
    assert sum(isinstance(event, StateEvent) for event in stream) == 1
    assert "NaN" in stream.warnings[0]
    assert sum(isinstance(event, StateEvent) for event in open_stream(path, contract)) == 3


def test_stamps_of_a_simulated_clock_are_the_time_and_stamps_of_zero_are_the_log_times(
    tmp_path: Path, contract: Contract
) -> None:
    own = open_stream(write(tmp_path / "own.mcap"), contract)
    assert not own.stamps_are_time and own.warnings == ()
    simulated = open_stream(
        write(tmp_path / "sim.mcap", stamp_ns=lambda log_ns: log_ns - 1_699_999_990 * SECOND_NS), contract
    )
    assert simulated.stamps_are_time and "another clock" in simulated.warnings[0]
    unset = open_stream(write(tmp_path / "zero.mcap", stamp_ns=lambda log_ns: 0), contract)
    assert not unset.stamps_are_time and sum("header stamp is 0" in warning for warning in unset.warnings) == 2
    frames = [event for event in unset if isinstance(event, FrameEvent)]
    assert all(event.frame.stamp_ns == event.log_ns for event in frames)


def test_after_a_damaged_part_the_instruction_is_not_known_until_the_next(record: Record, contract: Contract) -> None:
    path = record(episodes=4, frames=4, chunk_bytes=1500)
    complete = instructions(open_stream(path, contract))
    container = Container(path)
    starts = sorted({ref.at for ref in container.refs})
    second = [ref.log_ns for ref in container.select("/instruction")][1]
    hit = next(at for at in starts if max(ref.log_ns for ref in container.refs if ref.at == at) >= second)
    data = bytearray(path.read_bytes())
    data[hit + 120] ^= 255  # inside the compressed chunk
    path.write_bytes(bytes(data))
    stream = open_stream(path, contract)
    left = instructions(stream)
    assert None in left and "damaged" in stream.warnings[0]
    assert left[: left.index(None)] == complete[: left.index(None)]
    assert [text for text in left if text is not None] != complete


def test_a_damaged_picture_is_left_out_and_one_of_another_size_refused(tmp_path: Path, contract: Contract) -> None:
    path = tmp_path / "log.mcap"
    with LogWriter(path) as log:
        log.string("/instruction", 0, "go")
        log.joints("/joint_states", 1, {"a": 1.0, "b": 1.0})
        log.compressed_image("/left/image_raw/compressed", SECOND_NS, b"no picture")
        jpeg = cv2.imencode(".jpg", np.zeros((6, 8, 3), np.uint8))[1].tobytes()
        log.compressed_image("/left/image_raw/compressed", SECOND_NS + 1, jpeg)
        log.image("/right/image_raw", SECOND_NS, np.zeros((4, 4), np.uint8), encoding="mono8")
    stream = open_stream(path, contract)
    assert [event.camera for event in stream if isinstance(event, FrameEvent)] == ["right", "left"]
    assert "1 of 2 damaged picture(s) left out" in stream.warnings[-1]
    wrong = tmp_path / "wrong.mcap"
    with LogWriter(wrong) as log:
        log.string("/instruction", 0, "go")
        log.joints("/joint_states", 1, {"a": 1.0, "b": 1.0})
        log.image("/left/image_raw", SECOND_NS, np.zeros((7, 8, 3), np.uint8), encoding="rgb8")
        log.image("/right/image_raw", SECOND_NS, np.zeros((4, 4), np.uint8), encoding="mono8")
    with pytest.raises(ShapeError, match="/left/image_raw"):
        list(open_stream(wrong, contract))


def test_without_an_instruction_nothing_can_be_replayed(tmp_path: Path, contract: Contract) -> None:
    path = write(tmp_path / "log.mcap")
    with LogWriter(path) as log:
        log.joints("/joint_states", 1, {"a": 1.0, "b": 1.0})
        log.image("/left/image_raw", SECOND_NS, np.zeros((6, 8, 3), np.uint8), encoding="rgb8")
        log.image("/right/image_raw", SECOND_NS, np.zeros((4, 4), np.uint8), encoding="mono8")
    with pytest.raises(LogError, match="/instruction for instruction"):
        open_stream(path, contract)
