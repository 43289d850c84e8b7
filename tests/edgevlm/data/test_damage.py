"""Recordings that are cut, broken or none at all."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgevlm.data import Recording, read_log
from edgevlm.data.container import Container
from edgevlm.errors import EdgevlmError, LogError
from edgevlm.manifest.contract import Contract

Record = Callable[..., Path]
CHUNK = 0x06


def states(recording: Recording) -> list[tuple[str, float]]:
    return [
        (episode.instruction, float(observation.state.value[0]))
        for episode in recording.episodes
        for observation in recording.observations(episode)
        if observation.state
    ]


def test_a_cut_file_gives_its_intact_records_and_says_so(record: Record, contract: Contract) -> None:
    path = record(episodes=4, frames=6, chunk_bytes=2000)
    data, intact = path.read_bytes(), states(read_log(path, contract))
    last_chunk = max(ref.at for ref in Container(path).refs)
    counts = []
    for part in (1.0, 0.8, 0.6, 0.4):
        path.write_bytes(data[: int(last_chunk * part) + 50])
        recording = read_log(path, contract)
        got = states(recording)
        assert got == intact[: len(got)]
        counts.append(len(got))
        assert "is cut" in recording.warnings[0]
    assert len(intact) > counts[0] > counts[1] > counts[2] > counts[3] > 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(min_value=0, max_value=10_000))
def test_any_cut_gives_a_prefix_or_a_typed_refusal(record: Record, contract: Contract, at: int) -> None:
    path = record(episodes=2, frames=4, chunk_bytes=1500)
    data, intact = path.read_bytes(), states(read_log(path, contract))
    path.write_bytes(data[: at % (len(data) - 8)])  # the last 8 bytes only mark the end
    try:
        recording = read_log(path, contract)
    except LogError:
        return
    got = states(recording)
    assert got == intact[: len(got)] and recording.warnings


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(min_value=8, max_value=1_000_000), flip=st.integers(min_value=1, max_value=255))
def test_any_flipped_byte_gives_right_states_or_a_typed_refusal(
    record: Record, contract: Contract, at: int, flip: int
) -> None:
    path = record(episodes=2, frames=4, chunk_bytes=1500)
    data, intact = bytearray(path.read_bytes()), states(read_log(path, contract))
    data[at % len(data)] ^= flip
    path.write_bytes(data)
    try:
        got = states(read_log(path, contract))
    except EdgevlmError:
        return
    assert set(got) <= set(intact)


def test_a_chunk_whose_record_is_taken_for_another_is_lost_and_named(record: Record, contract: Contract) -> None:
    path = record(episodes=2, frames=4, chunk_bytes=1500)
    data = path.read_bytes()
    intact = states(read_log(path, contract))
    begins = [at for at, opcode in outer_records(data) if opcode == CHUNK]
    assert len(begins) > 2
    for at in begins:
        for opcode in (0x02, 0x04, 0x05, 0x07, 0x0E, 0x0F, 0x16, 0x86):
            path.write_bytes(data[:at] + bytes([opcode]) + data[at + 1 :])
            try:
                recording = read_log(path, contract)
            except EdgevlmError:
                continue
            assert set(states(recording)) <= set(intact)
            assert any(f"byte {at} is damaged" in warning for warning in recording.warnings)


def outer_records(data: bytes) -> Iterator[tuple[int, int]]:
    """(place, opcode) of each record that lies in no chunk."""
    at = 8
    while at + 9 <= len(data):
        opcode, length = struct.unpack_from("<BQ", data, at)
        yield at, opcode
        at += 9 + length


def test_an_episode_ends_where_a_chunk_is_lost(record: Record, contract: Contract) -> None:
    """The lost chunk may have held the next instruction: what follows must not count as the old task."""
    path = record(episodes=3, frames=6, chunk_bytes=1500)
    chunks = sorted({ref.at for ref in Container(path).refs})
    data = bytearray(path.read_bytes())
    data[chunks[len(chunks) // 2] + 200] ^= 0xFF
    intact = states(read_log(path, contract))
    path.write_bytes(data)
    recording = read_log(path, contract)
    got = states(recording)
    assert set(got) < set(intact) and "damaged" in recording.warnings[0]
    lost = {state for _, state in intact} - {state for _, state in got}
    assert len(lost) >= 1


def test_a_lost_first_chunk_still_leaves_the_rest(record: Record, contract: Contract) -> None:
    """Topics are declared once in the first chunk, and again in the summary."""
    path = record(episodes=3, frames=6, chunk_bytes=1500)
    first = min(ref.at for ref in Container(path).refs)
    data = bytearray(path.read_bytes())
    data[first + 200] ^= 0xFF
    path.write_bytes(data)
    assert [episode.instruction for episode in read_log(path, contract).episodes][-1] == "task 2"


def test_a_tail_of_zeros_is_a_cut(record: Record, contract: Contract) -> None:
    path = record(episodes=2, frames=5, chunk_bytes=1500)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3] + bytes(4096))
    assert read_log(path, contract).warnings


@pytest.mark.parametrize("content", [b"", b"#ROSBAG V2.0\n", b"SQLite format 3\0" * 100, bytes(range(256))])
def test_what_is_no_mcap_is_refused(tmp_path: Path, contract: Contract, content: bytes) -> None:
    path = tmp_path / "log.mcap"
    path.write_bytes(content)
    with pytest.raises(LogError, match="expected an MCAP file"):
        read_log(path, contract)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path, contract: Contract) -> None:
    for path in (tmp_path / "none.mcap", tmp_path):
        with pytest.raises(LogError, match="cannot be read"):
            read_log(path, contract)


def test_pictures_survive_a_cut(record: Record, contract: Contract) -> None:
    path = record(episodes=2, frames=5, chunk_bytes=1500)
    before = read_log(path, contract)
    original = before.observation(before.episodes[0], 2).frames["left"].value.copy()
    path.write_bytes(path.read_bytes()[:-3000])
    after = read_log(path, contract)
    assert np.array_equal(after.observation(after.episodes[0], 2).frames["left"].value, original)


def test_damage_in_the_repeated_schemas_at_the_end_does_no_harm(record: Record, contract: Contract) -> None:
    path = record()
    intact, data = states(read_log(path, contract)), bytearray(path.read_bytes())
    data[data.rindex(b"float64[] position")] ^= 0xFF
    path.write_bytes(data)
    assert states(read_log(path, contract)) == intact
