"""A few bytes of a recording can announce gigabytes: they are refused before they are unpacked, and never exceeded."""

from __future__ import annotations

import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest
import zstandard

from edgevlm.data import container
from edgevlm.data.container import Container
from edgevlm.errors import LogError

MB = 1 << 20
PACK: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstandard.ZstdCompressor(level=3).compress,
    "lz4": lz4.frame.compress,
    "": bytes,
}


def record(opcode: int, content: bytes) -> bytes:
    return struct.pack("<BQ", opcode, len(content)) + content


def chunk(packed: bytes, compression: str, announced: int) -> bytes:
    name = compression.encode()
    head = struct.pack("<QQQII", 0, 1, announced, 0, len(name)) + name
    return record(6, head + struct.pack("<Q", len(packed)) + packed)


def message(channel: int = 0, log_ns: int = 0, data: bytes = b"") -> bytes:
    return record(5, struct.pack("<HIQQ", channel, 0, log_ns, 0) + data)


def write(path: Path, *records: bytes) -> Path:
    path.write_bytes(b"\x89MCAP0\r\n" + b"".join(records) + record(0x0F, bytes(4)))
    return path


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("announced", [512 * MB, 100, 0, (1 << 64) - 1])
def test_a_bomb_is_left_out_whatever_it_announces(tmp_path: Path, compression: str, announced: int) -> None:
    bomb = PACK[compression](bytes(512 * MB))
    path = write(tmp_path / "z.mcap", chunk(bomb, compression, announced))
    before, begin = peak_mb(), time.process_time()
    read = Container(path)
    assert not read.refs and "at byte 8 is damaged" in read.warnings[0]
    assert peak_mb() - before < 150 and time.process_time() - begin < 2.0


@pytest.mark.parametrize("compression", sorted(PACK))
@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_chunk_of_another_size_than_it_announces_is_left_out(tmp_path: Path, compression: str, wrong: int) -> None:
    data = message(data=b"hello")
    good = chunk(PACK[compression](data), compression, len(data))
    bad = chunk(PACK[compression](data), compression, len(data) + wrong)
    read = Container(write(tmp_path / "m.mcap", good, bad, good))
    assert len(read.refs) == 2 and len(read.lost) == 1
    assert read.read(read.refs[1]) == b"hello"


def test_a_large_chunk_that_is_no_bomb_is_read(tmp_path: Path) -> None:
    noise = bytes(range(256)) * 4096 * 100  # 100 MB that shrink to little, beside what does not shrink
    data = message(data=noise + zstandard.ZstdCompressor().compress(noise)) + message(data=b"x")
    packed = zstandard.ZstdCompressor(level=1).compress(data)
    packed_enough = len(packed) * container._CHUNK_RATIO >= len(data)
    read = Container(write(tmp_path / "m.mcap", chunk(packed, "zstd", len(data))))
    assert bool(read.refs) == packed_enough
    raw = Container(write(tmp_path / "raw.mcap", chunk(data, "", len(data))))
    assert len(raw.refs) == 2


def test_many_small_bombs_are_refused_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "_TOTAL_LIMIT", 8 * MB)
    data = message(data=bytes(4 * MB))
    one = chunk(PACK["zstd"](data), "zstd", len(data))
    with pytest.raises(LogError, match="decompression bomb"):
        Container(write(tmp_path / "m.mcap", *[one] * 40))


def test_more_messages_than_a_file_of_its_size_can_have_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "_MESSAGES_LIMIT", 1000)
    data = message() * 5000
    with pytest.raises(LogError, match="split the recording"):
        Container(write(tmp_path / "m.mcap", chunk(PACK["zstd"](data), "zstd", len(data))))


def test_thousands_of_damaged_records_make_a_few_warnings(tmp_path: Path) -> None:
    read = Container(write(tmp_path / "m.mcap", *[chunk(b"no frame", "zstd", 8)] * 3000))
    assert len(read.warnings) < 30 and "3000 damaged records in all" in read.warnings[-1]


def named(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()


def schema(name: str = "a/msg/A", number: int = 1) -> bytes:
    return record(3, struct.pack("<H", number) + named(name) + named("ros2msg") + named("int32 x"))


def channel(topic: str = "/a", number: int = 1, schema_number: int = 1, qos: str = "") -> bytes:
    metadata = named("offered_qos_profiles") + named(qos)
    content = struct.pack("<HH", number, schema_number) + named(topic) + named("cdr")
    return record(4, content + struct.pack("<I", len(metadata)) + metadata)


def test_a_channel_that_is_declared_again_alike_is_one(tmp_path: Path) -> None:
    once = schema() + channel() + message(1)
    again = chunk(once, "", len(once))
    read = Container(write(tmp_path / "m.mcap", once, again, schema(), channel(qos="depth: 5")))
    assert read.found == {"/a": "a/msg/A"} and len(read.select("/a")) == 2 and not read.lost


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("other", "words"),
    [
        (channel("/b"), "channel 1: .*'/a' and '/b'"),
        (schema("b/msg/B", 2) + channel(schema_number=2), "channel 1: expected one declaration"),
        (schema("b/msg/B"), "schema 1: .*'a/msg/A' and 'b/msg/B'"),
    ],
)
def test_a_number_that_is_declared_for_something_else_is_refused(
    tmp_path: Path, other: bytes, words: str, chunked: bool
) -> None:
    later = other + message(1)
    later = chunk(later, "", len(later)) if chunked else later
    with pytest.raises(LogError, match=words):
        Container(write(tmp_path / "m.mcap", schema(), channel(), message(1), later))
