"""The MCAP file itself: finds every whole message, in the order of log times, and reads one on demand.

The file is walked record by record from its start, so that a recording cut short is used as far as it goes.
Nothing but one entry per message is kept in memory. What a file announces is bounded before it is unpacked, and never
exceeded while it is: a few kilobytes can announce gigabytes. Source: the MCAP specification, https://mcap.dev/spec.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from edgevlm.errors import LogError, require

_MAGIC = b"\x89MCAP0\r\n"
_HEAD = struct.Struct("<BQ")  # opcode, length of the content
_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_FOOTER_OP, _SCHEMA_OP, _CHANNEL_OP, _MESSAGE_OP, _CHUNK_OP, _DATA_END_OP = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F
_CHUNK_INDEX_OP = 0x08
_CHUNK_INDEX = struct.Struct("<QQQ")  # first and last log time of a chunk, and where it begins
_CHUNKS_KEPT = 4
_MB = 1 << 20
_RECORD_LIMIT = 1024 * _MB  # of one chunk or message as it lies in the file
# Writers make chunks of a few MB. A larger one is taken where what it holds is not much larger than itself.
_CHUNK_LIMIT, _CHUNK_RATIO, _LARGEST_CHUNK = 64 * _MB, 64, 1024 * _MB
_TOTAL_LIMIT = 1024 * _MB  # of all chunks unpacked, and _CHUNK_RATIO times the file besides
_MESSAGES_LIMIT, _BYTES_A_MESSAGE = 2_000_000, 16  # so many, and one for each so many bytes of the file besides
_WARNINGS_KEPT = 20


@dataclass(frozen=True)
class Channel:
    """One topic as the file declares it."""

    topic: str
    type_name: str
    encoding: str  # of the messages
    schema_encoding: str
    schema: Any  # mcap.records.Schema | None


@dataclass(frozen=True, slots=True)
class MessageRef:
    """Where a message lies: in the chunk at `at`, or (offset -1) a record of its own."""

    channel: int
    log_ns: int
    at: int
    offset: int
    length: int


@dataclass
class Container:
    """An indexed recording. `lost` holds the spans of log time whose messages could not be read.

    Raises:
        LogError: the file cannot be read, is no MCAP, or holds more than a recording of its size can.
        DependencyError: the extra `bags` is not installed.
    """

    path: Path
    channels: dict[int, Channel] = field(default_factory=dict)
    refs: list[MessageRef] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _chunks: OrderedDict[int, bytes] = field(default_factory=OrderedDict)
    _size: int = 0
    _unpacked: int = 0  # bytes of all chunks so far, while the file is indexed
    _damaged: int = 0
    _ended: bool = False  # the data are over, while the file is indexed

    def __post_init__(self) -> None:
        self._records = require("mcap.records", extra="bags")
        self._streams = require("mcap.data_stream", extra="bags")
        self._schemas: dict[int, Any] = {}
        self._declared: dict[int, Any] = {}  # mcap.records.Channel by number
        self._zstandard = zstandard = require("zstandard", extra="bags")
        # what a damaged chunk makes of the decompressors and of the record readers
        foreign = require("mcap.exceptions", extra="bags").McapError
        self._damage = (ValueError, RuntimeError, struct.error, zstandard.ZstdError, foreign)
        try:
            with self.path.open("rb") as stream:
                self._scan(stream)
        except OSError as error:
            raise LogError(f"{self.path}: cannot be read ({error}); expected a recording in MCAP") from error
        if self._damaged > _WARNINGS_KEPT:
            self.warnings.append(f"{self.path}: {self._damaged} damaged records in all; the first ones are named")
        self.refs.sort(key=lambda ref: ref.log_ns)  # stable: equal times stay in the file's order

    @property
    def found(self) -> Mapping[str, str]:
        """Topic -> message type, for every topic that the file declares."""
        return {channel.topic: channel.type_name for channel in self.channels.values()}

    @property
    def used(self) -> frozenset[str]:
        """The topics that have messages."""
        numbers = {ref.channel for ref in self.refs}
        return frozenset(channel.topic for number, channel in self.channels.items() if number in numbers)

    def select(self, topic: str) -> list[MessageRef]:
        """The messages of one topic, by log time."""
        wanted = {number for number, channel in self.channels.items() if channel.topic == topic}
        return [ref for ref in self.refs if ref.channel in wanted]

    def read(self, ref: MessageRef) -> bytes:
        """The message's bytes as they were published.

        Raises:
            LogError: the file changed since it was indexed.
        """
        try:
            content = self._chunk(ref.at) if ref.offset >= 0 else self._content(ref.at)
        except (OSError, *self._damage) as error:
            raise LogError(f"{self.path}: byte {ref.at} cannot be read any more ({error}); open it again") from error
        start = max(ref.offset, 0) + _MESSAGE.size
        return content[start : start + ref.length]

    def _content(self, at: int) -> bytes:
        with self.path.open("rb") as stream:
            stream.seek(at)
            _, length = _HEAD.unpack(stream.read(_HEAD.size))
            return stream.read(length)

    def _chunk(self, at: int) -> bytes:
        if at not in self._chunks:
            self._chunks[at] = self._unpack(self._content(at))[1]
            while len(self._chunks) > _CHUNKS_KEPT:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(at)
        return self._chunks[at]

    def _scan(self, stream: IO[bytes]) -> None:
        size = self._size = os.fstat(stream.fileno()).st_size
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise LogError(
                f"{self.path}: expected an MCAP file, got {size} bytes that do not start like one; "
                "record with: ros2 bag record -s mcap"
            )
        at, indexed = len(_MAGIC), False
        chunks: set[int] = set()
        while at + _HEAD.size <= size:
            opcode, length = _HEAD.unpack(stream.read(_HEAD.size))
            if opcode == 0 or at + _HEAD.size + length > size:
                break
            self._ended = self._ended or opcode == _DATA_END_OP  # what follows repeats schemas and channels
            indexed = indexed or opcode == _FOOTER_OP
            if opcode in (_SCHEMA_OP, _CHANNEL_OP, _MESSAGE_OP, _CHUNK_OP) and length <= _RECORD_LIMIT:
                if opcode == _CHUNK_OP:
                    chunks.add(at)
                self._take(opcode, stream.read(length), at)
            elif opcode == _CHUNK_INDEX_OP and _CHUNK_INDEX.size <= length <= _RECORD_LIMIT:
                self._check_index(stream.read(length), at, chunks)
            else:
                if opcode in (_MESSAGE_OP, _CHUNK_OP):
                    self._warn(at, f"{length} bytes, over {_RECORD_LIMIT}")
                stream.seek(length, os.SEEK_CUR)
            at += _HEAD.size + length
        if not self._ended:
            self.warnings.append(
                f"{self.path}: the recording is cut at byte {at} of {size}; "
                f"used the {len(self.refs)} whole messages before it"
            )
        elif not indexed:
            self.warnings.append(f"{self.path}: the index at the recording's end is cut; every message was used")

    def _take(self, opcode: int, content: bytes, at: int) -> None:
        try:
            if opcode == _CHUNK_OP:
                self._take_chunk(content, at)
            elif opcode == _MESSAGE_OP:
                self._take_message(content, at, -1)
            else:
                self._declare(opcode, content)
        except self._damage as error:
            self._warn(at, str(error))

    def _check_index(self, content: bytes, at: int, chunks: Collection[int]) -> None:
        """What a record is stands in one byte without a checksum: a chunk that was taken for something else is lost."""
        first_ns, last_ns, begin = _CHUNK_INDEX.unpack_from(content)
        if begin not in chunks and begin < at:
            self._warn(begin, "the index has a chunk here")
            self.lost.append((first_ns, last_ns))

    def _warn(self, at: int, what: str) -> None:
        self._damaged += 1
        if self._damaged <= _WARNINGS_KEPT:
            self.warnings.append(f"{self.path}: the record at byte {at} is damaged ({what:.200}); left it out")

    def _unpack(self, content: bytes) -> tuple[Any, bytes]:
        chunk = self._records.Chunk.read(self._streams.ReadDataStream(BytesIO(content)))
        size = chunk.uncompressed_size
        limit = min(max(_CHUNK_LIMIT, _CHUNK_RATIO * len(chunk.data)), _LARGEST_CHUNK)
        if size > limit:
            raise ValueError(f"{len(chunk.data)} bytes that announce {size}, at most {limit} are unpacked")
        if chunk.compression == "zstd":
            with self._zstandard.ZstdDecompressor().stream_reader(chunk.data) as stream:
                data: bytes = stream.read(size + 1)
        elif chunk.compression == "lz4":
            lz4 = require("lz4.frame", extra="bags")
            data = lz4.LZ4FrameDecompressor().decompress(chunk.data, size + 1)
        elif chunk.compression == "":
            data = chunk.data
        else:
            raise ValueError(f"compression {chunk.compression!r}")
        if len(data) != size:
            raise ValueError(f"{size} bytes announced, it holds {'more' if len(data) > size else len(data)}")
        if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
            raise ValueError("the checksum does not fit")
        return chunk, data

    def _take_chunk(self, content: bytes, at: int) -> None:
        before = len(self.refs)
        try:
            _, data = self._unpack(content)
            self._unpacked += len(data)
            if self._unpacked > _TOTAL_LIMIT + _CHUNK_RATIO * self._size:
                raise LogError(
                    f"{self.path}: expected a recording, got {self._size} bytes that unpack to over {self._unpacked}; "
                    "a decompression bomb, or empty pictures: record without them"
                )
            for opcode, start, length in _records_in(data):
                if opcode == _MESSAGE_OP:
                    self._take_message(data[start : start + _MESSAGE.size], at, start, length)
                elif opcode in (_SCHEMA_OP, _CHANNEL_OP):
                    self._declare(opcode, data[start : start + length])
        except self._damage:
            del self.refs[before:]
            self.lost.append(struct.unpack_from("<QQ", content))
            raise

    def _take_message(self, head: bytes, at: int, offset: int, length: int | None = None) -> None:
        channel, _, log_ns, _ = _MESSAGE.unpack_from(head)
        size = (len(head) if length is None else length) - _MESSAGE.size
        if len(self.refs) >= _MESSAGES_LIMIT + self._size // _BYTES_A_MESSAGE:
            raise LogError(f"{self.path}: over {len(self.refs)} messages in {self._size} bytes; split the recording")
        self.refs.append(MessageRef(channel, log_ns, at, offset, size))

    def _same(self, kind: str, number: int, first: Any, again: Any) -> None:
        """Refuse a number that is declared again for something else (MCAP specification).

        Behind the data there is only the index, which repeats every declaration: damage in it costs nothing.
        """
        if first != again and not self._ended:
            names = [repr(getattr(each, "topic", "") or each.name)[:80] for each in (first, again)]
            raise LogError(
                f"{self.path}: {kind} {number}: expected one declaration, got {' and '.join(names)}, which differ: "
                "whose messages are whose cannot be told; record again, or join recordings with: mcap merge"
            )

    def _declare(self, opcode: int, content: bytes) -> None:
        stream = self._streams.ReadDataStream(BytesIO(content))
        if opcode == _SCHEMA_OP:
            schema = self._records.Schema.read(stream)
            self._same("schema", schema.id, self._schemas.setdefault(schema.id, schema), schema)
            return
        record = self._records.Channel.read(stream)
        record.metadata = {}  # the QoS, which recorders write anew: no message is read by it
        self._same("channel", record.id, self._declared.setdefault(record.id, record), record)
        schema = self._schemas.get(record.schema_id)
        channel = Channel(
            topic=record.topic,
            type_name=schema.name if schema else "",
            encoding=record.message_encoding,
            schema_encoding=schema.encoding if schema else "",
            schema=schema,
        )
        self.channels.setdefault(record.id, channel)


def _records_in(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(opcode, where its content starts, length) of each record in an unpacked chunk."""
    at = 0
    while at < len(data):
        opcode, length = _HEAD.unpack_from(data, at)
        start = at + _HEAD.size
        if start + length > len(data):
            raise ValueError("a record runs over the end of its chunk")
        yield opcode, start, length
        at = start + length
