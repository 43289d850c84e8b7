"""Recordings as rows that a test changes at will and writes with the mcap package's own writer, not with ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer
from mcap_ros2._dynamic import generate_dynamic, serialize_dynamic

SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Row:
    """One message as it lies in a file; `channel` tells apart the channels of one topic."""

    topic: str
    type_name: str
    schema: str
    log_ns: int
    data: bytes
    channel: int = 0
    schema_encoding: str = "ros2msg"
    encoding: str = "cdr"

    @property
    def message(self) -> Any:
        """Decoded by the mcap package."""
        return _decoder(self.type_name, self.schema)(self.data)

    def changed(self, change: Callable[[Any], None]) -> Row:
        """With a message that was changed in place."""
        message = self.message
        change(message)
        return replace(self, data=bytes(_encoder(self.type_name, self.schema)(message)))


@cache
def _decoder(type_name: str, schema: str) -> Callable[[bytes], Any]:
    return generate_dynamic(type_name, schema)[type_name]


@cache
def _encoder(type_name: str, schema: str) -> Callable[[Any], bytes]:
    return serialize_dynamic(type_name, schema)[type_name]


def read_rows(path: Path) -> list[Row]:
    """Every message of a recording, by log time."""
    with path.open("rb") as stream:
        return [
            Row(channel.topic, schema.name, schema.data.decode(), message.log_time, message.data)
            for schema, channel, message in make_reader(stream).iter_messages()
        ]


def write_rows(path: Path, rows: Iterable[Row], *, metadata: bool = False) -> Path:
    """A recording of these messages; `metadata` as rosbag2 adds it."""
    with path.open("wb") as stream:
        writer = Writer(stream, compression=CompressionType.ZSTD, chunk_size=1 << 16)
        writer.start(profile="ros2", library="rosbag2_storage_mcap 0.26.0" if metadata else "a test")
        schemas: dict[tuple[str, str, str], int] = {}
        channels: dict[tuple[Any, ...], int] = {}
        for row in rows:
            schema = (row.type_name, row.schema_encoding, row.schema)
            if schema not in schemas:
                schemas[schema] = writer.register_schema(row.type_name, row.schema_encoding, row.schema.encode())
            channel = (row.topic, row.channel, row.encoding, *schema)
            if channel not in channels:
                about = {"offered_qos_profiles": "- reliability: reliable"} if metadata else {}
                channels[channel] = writer.register_channel(row.topic, row.encoding, schemas[schema], about)
            writer.add_message(channels[channel], row.log_ns, row.data, row.log_ns)
        if metadata:
            writer.add_metadata("rosbag2", {"serialized_metadata": "rosbag2_bagfile_information: {version: 9}"})
        writer.finish()
    return path


def stamped(message: Any, stamp_ns: int) -> None:
    """Set a header's stamp."""
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, SECOND_NS)


def stamp_of(message: Any) -> int:
    """A header's stamp."""
    return int(message.header.stamp.sec) * SECOND_NS + int(message.header.stamp.nanosec)
