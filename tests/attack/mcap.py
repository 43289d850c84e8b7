"""MCAP containers that lie: sizes, compressions, chunks in chunks, records without an end, broken texts."""

from __future__ import annotations

import random
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import zstandard

from edgevlm.data.container import Container
from edgevlm.errors import EdgevlmError

_PACK: dict[str, Callable[[bytes], bytes]] = {"zstd": zstandard.compress, "lz4": lz4.frame.compress, "": bytes}
_MOST_MB, _MOST_S = 300, 4.0
_HOLE = 32 << 20


class Containers:
    """Opens a file of hostile records and reads every message that it names, in bounded memory and time."""

    name, unit, limit_s, memory_mb = "mcap", "containers", 30.0, 2048

    def one(self, seed: int, directory: Path) -> str:
        rng = random.Random(seed)
        data = bytearray(b"\x89MCAP0\r\n" + b"".join(_record(rng, 0) for _ in range(rng.randint(1, 30))))
        if rng.random() < 0.5:
            for _ in range(rng.randint(1, 10)):
                data[rng.randrange(8, len(data))] = rng.randrange(256)
        path = directory / "m.mcap"
        path.write_bytes(data)
        before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            read = Container(path)
            messages = [read.read(ref) for ref in read.refs[:200]]
        except EdgevlmError as error:
            label = f"refused {type(error).__name__}"
        else:
            label = "read" if messages else "read, nothing in it"
            assert len(read.warnings) < 40, f"{len(read.warnings)} warnings"
        grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
        assert grown_mb < _MOST_MB, f"{len(data)} bytes took {grown_mb} MB"
        assert (took_s := time.process_time() - begin) < _MOST_S, f"{len(data)} bytes took {took_s:.1f} s"
        return label


def _head(opcode: int, content: bytes, rng: random.Random) -> bytes:
    length = len(content) if rng.random() < 0.95 else rng.choice((0, 1, len(content) + 1, 1 << 40, (1 << 64) - 1))
    return struct.pack("<BQ", opcode, length) + content


def _record(rng: random.Random, depth: int) -> bytes:
    kind = rng.choice(("schema", "channel", "message", "message", "chunk", "other"))
    if kind == "schema":
        content = struct.pack("<H", rng.randrange(3)) + _text(rng) + _text(rng) + _text(rng)
        return _head(0x03, content, rng)
    if kind == "channel":
        content = struct.pack("<HH", rng.randrange(3), rng.randrange(3)) + _text(rng) + _text(rng)
        return _head(0x04, content + struct.pack("<I", rng.choice((0, 1, 1 << 31))), rng)
    if kind == "message":
        times = rng.choice((0, 1, rng.randrange(1 << 62), (1 << 64) - 1))
        content = struct.pack("<HIQQ", rng.randrange(3), 0, times, 0) + rng.randbytes(rng.randrange(60))
        return _head(0x05, content[: rng.choice((9, 100, 100, 100))], rng)
    if kind == "chunk" and depth < 3:
        return _head(0x06, _chunk(rng, depth), rng)
    return _head(rng.choice((0, 1, 2, 7, 8, 9, 10, 11, 12, 13, 14, 15, 200)), rng.randbytes(rng.randrange(40)), rng)


def _chunk(rng: random.Random, depth: int) -> bytes:
    inside = b"".join(_record(rng, depth + 1) for _ in range(rng.randint(0, 5)))
    if rng.random() < 0.04:
        inside += struct.pack("<BQ", 0x05, _HOLE + 22) + bytes(_HOLE + 22)  # shrinks to some kilobytes
    name = rng.choice(tuple(_PACK))
    packed = _PACK[name](inside)
    size = len(inside) if rng.random() < 0.7 else rng.choice((0, len(inside) // 2, 1 << 33, (1 << 64) - 1))
    named = rng.choice((name, name, name, "zstd", "lz4", "", "xz")).encode()
    head = struct.pack("<QQQI", 5, 3, size, rng.choice((0, 0, 7)))
    return head + struct.pack("<I", len(named)) + named + struct.pack("<Q", len(packed)) + packed


def _text(rng: random.Random) -> bytes:
    text = rng.randbytes(rng.randrange(20)) if rng.random() < 0.2 else b"a/msg/B"
    return struct.pack("<I", len(text) if rng.random() < 0.9 else rng.choice((0, 1 << 31))) + text
