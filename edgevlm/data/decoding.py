"""A recording's messages as objects: which definition they are decoded by, and what is refused before one is."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from edgevlm.data.container import Channel, Container, MessageRef
from edgevlm.errors import LogError, require
from edgevlm.rosmsg.definitions import check_definition, check_idl, check_layout
from edgevlm.rosmsg.schemas import BODIES, COMPRESSED_IMAGE, IMAGE, JOINT_STATE, STRING, definition

DAMAGE = (ValueError, LookupError, TypeError, struct.error, OverflowError, RuntimeError)  # of a message's bytes
_READ_BY_LAYOUT = (IMAGE, COMPRESSED_IMAGE, JOINT_STATE, STRING)  # taken as ROS 2 defines them
_COMPRESSED = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}  # how a compressed block begins


def channels_of(container: Container, topic: str) -> list[Channel]:
    """The topic's channels, those with messages if there are any."""
    declared = {number: channel for number, channel in container.channels.items() if channel.topic == topic}
    used = {ref.channel for ref in container.refs}
    return [channel for number, channel in declared.items() if number in used] or list(declared.values())


def topic_type(container: Container, topic: str) -> str:
    """The type of the topic's messages.

    Raises:
        LogError: it has two types, or two definitions of its type.
    """
    channels = channels_of(container, topic)
    types = sorted({channel.type_name for channel in channels})
    if len(types) > 1:
        raise LogError(
            f"{container.path}: topic {topic}: expected messages of one type, got {', '.join(types)}; "
            "stop the node that publishes the wrong one, remap it, and record again"
        )
    if len({(channel.encoding, channel.schema_encoding, _text(channel)) for channel in channels}) > 1:
        raise LogError(
            f"{container.path}: topic {topic}: expected one definition of {types[0]}, got several that differ; "
            "build all nodes with the same message package, and record again"
        )
    return types[0]


def decoder(container: Container, topic: str) -> Callable[[bytes], Any]:
    """What turns a topic's messages into objects.

    Raises:
        LogError: the topic is not CDR with a definition that can be read, such as a ROS 1 recording.
    """
    kind = topic_type(container, topic)
    channel = channels_of(container, topic)[0]
    where = f"{container.path}: topic {topic}"
    if channel.encoding != "cdr" or channel.schema_encoding not in ("ros2msg", "ros2idl"):
        raise LogError(
            f"{where}: expected ROS 2 messages (cdr, ros2msg), got "
            f"{channel.encoding or 'none'}, {channel.schema_encoding or 'no schema'}; convert the recording to ROS 2"
        )
    try:
        text = _definition(kind, channel)
        decode = _generate(kind, text)
    except ValueError as error:
        raise LogError(
            f"{where} has a schema that cannot be read: the definition of {kind} {error}; "
            "record again with the message package installed"
        ) from error
    return _checked(decode, where, text=kind == STRING)


def messages(container: Container, topic: str) -> Iterator[tuple[MessageRef, Any]]:
    """Every message of a topic, decoded, by log time; damaged ones are left out with a warning."""
    decode = decoder(container, topic)
    damaged = 0
    for ref in container.select(topic):
        try:
            message = decode(container.read(ref))
        except DAMAGE:
            damaged += 1
            continue
        yield ref, message
    if damaged:
        container.warnings.append(f"{container.path}: topic {topic}: {damaged} damaged message(s) left out")


def check_wire(data: bytes, where: str) -> None:
    """Refuse what is no plain CDR for a reason that has a name.

    Raises:
        LogError: messages that were compressed one by one.
    """
    if (method := _COMPRESSED.get(bytes(data[:4]))) is not None:
        raise LogError(
            f"{where}: the messages themselves are compressed ({method}; ros2 bag record --compression-mode message); "
            "convert the recording with ros2 bag convert without it: MCAP compresses by itself"
        )


def _checked(decode: Callable[[bytes], Any], where: str, *, text: bool) -> Callable[[bytes], Any]:
    def checked(data: bytes) -> Any:
        check_wire(data, where)
        if data[:2] not in (b"\0\0", b"\0\1"):
            raise ValueError(f"encapsulation {data[:2]!r}: expected plain CDR")
        if text and int.from_bytes(data[4:8], "little" if data[1] else "big") > len(data) - 8:
            raise ValueError("the text is cut")  # the library would give what is left of it
        return decode(data)

    return checked


def _text(channel: Channel) -> bytes:
    """The definition without its comments and blank lines."""
    data: bytes = channel.schema.data if channel.schema is not None else b""
    lines = (line.partition(b"#")[0].split() for line in data.splitlines())
    return b"\n".join(b" ".join(words) for words in lines if words)


def _definition(kind: str, channel: Channel) -> str:
    """The ros2msg text that messages of this type are decoded by. Raises ValueError: it cannot be."""
    text: str = channel.schema.data.decode()  # UnicodeDecodeError is a ValueError
    if channel.schema_encoding == "ros2idl":
        if kind not in BODIES:
            raise ValueError(f"is IDL, which is read for {', '.join(sorted(BODIES)[:4])}, ... only")
        check_idl(kind, text, definition(kind))
        return definition(kind)
    if kind in _READ_BY_LAYOUT:
        check_layout(kind, text, definition(kind))
    else:
        check_definition(kind, text)
    return text


def _generate(kind: str, text: str) -> Callable[[bytes], Any]:
    """The library's decoder of a checked definition. Raises ValueError: it refuses the definition."""
    records = require("mcap.records", extra="bags")
    factory = require("mcap_ros2.decoder", extra="bags").DecoderFactory()
    try:
        schema = records.Schema(id=1, name=kind, encoding="ros2msg", data=text.encode())
        decode: Callable[[bytes], Any] = factory.decoder_for("cdr", schema)
    except Exception as error:  # the library's parser of definitions raises kinds of its own, and NameError
        raise ValueError(f"is refused by its parser ({error})") from error
    return decode
