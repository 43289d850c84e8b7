"""Recordings as drivers, converters and disks break them: schemas, stamps, names, channels, bytes.

What is read must be what an independent decoder of the same file (the mcap package's) finds for that stamp, or named.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from support import tiny
from support.recordings import SECOND_NS, Row, read_rows, stamp_of, stamped, write_rows

from edgevlm.data import LogWriter, read_log
from edgevlm.data.base import FrameEvent, StateEvent
from edgevlm.data.stream import open_stream
from edgevlm.errors import EdgevlmError
from edgevlm.manifest.contract import Observation
from edgevlm.rosmsg.topic_map import StateSource, TopicMap

CAMERA, STATE, REPORTED = "/front/image_raw", "/joint_states", "/instruction"
FIELDS = ("x", "y", "grip")
_LONG = 20_000  # characters of a schema that the other decoder is not tried on: it takes minutes
STEPS, PERIOD_NS = 12, SECOND_NS // 10
Rows = list[Row]


class Recordings:
    """Reads a changed recording as calibration does and as replay does."""

    name, unit, limit_s, memory_mb = "recordings", "recordings", 30.0, 2048

    def one(self, seed: int, directory: Path) -> str:
        rng = random.Random(seed)
        rows = list(_rows(directory))
        for change in rng.choices(_CHANGES, k=rng.randint(1, 3)):
            rows = change(rng, rows)
        path = write_rows(directory / "run.mcap", rows, metadata=rng.random() < 0.5)
        cut = rng.random() < 0.2
        if cut:
            _damage(rng, path)
        by_index = rng.random() < 0.1
        topics = _topics(by_index)
        contract = tiny.mono_contract()
        outcomes = []
        for read in (_observations, _events):
            try:
                read(path, contract, topics, None if cut else rows)
            except EdgevlmError as error:
                text = str(error)
                assert len(text) < 4000, f"a refusal of {len(text)} characters"
                outcomes.append(f"refused {type(error).__name__}")
            else:
                assert not by_index, "position[0] of a JointState was taken"
                outcomes.append("read")
        return outcomes[0] if outcomes[0] == outcomes[1] else " / ".join(outcomes)


def _rows(directory: Path) -> Rows:
    """Two episodes of a small robot, state at the double rate."""
    path = directory / "plain.mcap"
    camera = tiny.mono_contract().cameras[0]
    with LogWriter(path) as log:
        for step in range(2 * STEPS):
            at_ns = tiny.START_NS + step * PERIOD_NS
            if step % STEPS == 0:
                log.string(REPORTED, at_ns, tiny.COMMANDS[step // STEPS])
            for half in (0, PERIOD_NS // 2):
                values = np.random.default_rng(2 * step + bool(half)).uniform(-0.3, 0.3, 3)
                log.joints(STATE, at_ns + half, dict(zip(FIELDS, values.tolist(), strict=True)))
            log.image(CAMERA, at_ns, tiny.image(camera, step), encoding="rgb8")
    return read_rows(path)


def _topics(by_index: bool) -> TopicMap:
    path = "position[0]" if by_index else "position[name=x]"
    state = {"x": StateSource(topic=STATE, path=path)}
    state |= {name: StateSource(topic=STATE, joint=name) for name in FIELDS[1:]}
    return TopicMap(cameras={"front": CAMERA}, state=state, instruction=REPORTED)


def _observations(path: Path, contract: Any, topics: TopicMap, rows: Rows | None) -> None:
    recording = read_log(path, contract, topics)
    for episode in recording.episodes:
        for observation in recording.observations(episode):
            if rows is not None:
                _check(observation, rows)


def _check(observation: Observation, rows: Rows) -> None:
    """Each number and the instruction are those of the file, by another decoder."""
    frame, state = observation.frames["front"], observation.state
    assert state is not None and state.stamp_ns <= frame.stamp_ns, "a state from the future"
    messages = [message for row in rows if row.topic == STATE and (message := _decoded(row)) is not None]
    for name, value in zip(FIELDS, state.value, strict=True):
        assert any(value == each for message in messages for each in _values(message, name)), f"no {name} is {value}"
    frames = [(row.log_ns, message) for row in rows if row.topic == CAMERA and (message := _decoded(row)) is not None]
    texts = {_text_at(rows, log_ns) for log_ns, message in frames if stamp_of(message) == frame.stamp_ns}
    assert not texts or observation.instruction in texts, f"{observation.instruction!r} was in force, not {texts}"


def _decoded(row: Row) -> Any | None:
    with contextlib.suppress(Exception):  # whatever the other decoder makes of damage
        return row.message if len(row.schema) < _LONG else None
    return None


def _values(message: Any, name: str) -> list[np.float32]:
    with np.errstate(over="ignore"):
        pairs = zip(getattr(message, "name", ()), getattr(message, "position", ()), strict=False)
        return [np.float32(value) for each, value in pairs if each == name]


def _text_at(rows: Rows, log_ns: int) -> str:
    reported = sorted((row.log_ns, i) for i, row in enumerate(rows) if row.topic == REPORTED and row.log_ns <= log_ns)
    messages = [message for _, i in reported if (message := _decoded(rows[i])) is not None]
    return str(messages[-1].data) if messages else ""


def _events(path: Path, contract: Any, topics: TopicMap, rows: Rows | None) -> None:
    for event in open_stream(path, contract, topics):
        if rows is None:
            continue
        if isinstance(event, FrameEvent):
            stamps = [
                stamp_of(message) for row in rows if row.topic == CAMERA and (message := _decoded(row)) is not None
            ]
            assert event.frame.stamp_ns in (*stamps, event.log_ns), "a stamp that no message has"
        elif isinstance(event, StateEvent):
            assert np.isfinite(event.state.value).all()


def _pick(rng: random.Random, rows: Rows) -> str:
    return rng.choice(sorted({row.topic for row in rows}) or [STATE])


def _some(rng: random.Random, rows: Rows, topic: str, change: Callable[[Any], None]) -> Rows:
    """Change all, every other, or a few messages of a topic."""
    share = rng.choice([1.0, 1.0, 0.5, 0.05])
    out = []
    for row in rows:
        if row.topic == topic and row.schema_encoding == "ros2msg" and len(row.schema) < _LONG and rng.random() < share:
            with contextlib.suppress(Exception):  # an earlier change made another type of it, or damaged it
                row = row.changed(change)
        out.append(row)
    return out


def _shift(rng: random.Random, rows: Rows) -> Rows:
    by_ns = int(rng.choice([0.05, 0.3, 2, 30, 3600, 1e8]) * rng.choice([-1, 1]) * SECOND_NS)
    return _some(rng, rows, rng.choice([CAMERA, STATE]), lambda m: stamped(m, max(0, stamp_of(m) + by_ns)))


def _stamp(rng: random.Random, rows: Rows) -> Rows:
    to_ns = rng.choice([0, 1, tiny.START_NS, ((1 << 31) - 1) * SECOND_NS])
    return _some(rng, rows, rng.choice([CAMERA, STATE]), lambda m: stamped(m, to_ns))


def _unit(rng: random.Random, rows: Rows) -> Rows:
    by = rng.choice([1e-9, 1e-6, 1e-3, 2.0])
    return _some(rng, rows, rng.choice([CAMERA, STATE]), lambda m: stamped(m, int(stamp_of(m) * by)))


def _log_times(rng: random.Random, rows: Rows) -> Rows:
    topic, to_ns = _pick(rng, rows), rng.choice([0, 1, tiny.START_NS, (1 << 63) + 5])
    return [replace(row, log_ns=to_ns) if row.topic == topic or rng.random() < 0.02 else row for row in rows]


def _names(rng: random.Random, rows: Rows) -> Rows:
    names = [rng.choice([*FIELDS, "elbow", "", "\x1b[2J"]) for _ in range(rng.randint(0, 4))]

    def change(message: Any) -> None:
        message.name = names

    return _some(rng, rows, STATE, change)


def _order(rng: random.Random, rows: Rows) -> Rows:
    def change(message: Any) -> None:
        order = list(range(min(len(message.name), len(message.position))))
        rng.shuffle(order)
        message.name, message.position = [message.name[i] for i in order], [message.position[i] for i in order]

    return _some(rng, rows, STATE, change)


def _numbers(rng: random.Random, rows: Rows) -> Rows:
    value = rng.choice([float("nan"), float("inf"), 1e300, 1e4, -0.0])

    def change(message: Any) -> None:
        message.position = [value, *message.position[1:]] if rng.random() < 0.7 else list(message.position)[:-1]

    return _some(rng, rows, STATE, change)


def _size(rng: random.Random, rows: Rows) -> Rows:
    height, width = rng.choice([(0, 0), (1, 1), (12, 15), (1 << 31, 1 << 31)])

    def change(message: Any) -> None:
        message.height, message.width = height, width
        message.encoding = rng.choice([message.encoding, "16UC1", "", "yuv422"])

    return _some(rng, rows, CAMERA, change)


def _channels(rng: random.Random, rows: Rows) -> Rows:
    topic = _pick(rng, rows)
    return [replace(row, channel=rng.randrange(2)) if row.topic == topic else row for row in rows]


def _schema(rng: random.Random, rows: Rows) -> Rows:
    topic = _pick(rng, rows)
    texts = [
        lambda text: "",
        lambda text: "\n",
        lambda text: text.replace("float64", "wstring"),
        lambda text: text.replace("string[] name", "JointState[] name"),
        lambda text: text.replace("MSG: std_msgs/Header", "MSG: std_msgs/Other"),
        lambda text: "\n".join(rng.sample(text.splitlines(), len(text.splitlines()))),
        lambda text: text[: rng.randrange(len(text) + 1)],
        lambda text: (
            text + rng.choice(["float64 more\n", "float64[0] x\n", "\x00", "= = =\n", "uint8[4294967295] x\n"])
        ),
        lambda text: "float64 a\n" * rng.choice([3, 300_000]),
        lambda text: "".join(f"int8 x{i}\n" for i in range(60_000)),
    ]
    change = rng.choice(texts)
    encoding = rng.choice(["ros2msg", "ros2msg", "ros2msg", "ros2idl", "protobuf", ""])
    half = rng.random() < 0.2
    return [
        replace(row, schema=change(row.schema), schema_encoding=encoding)
        if row.topic == topic and not (half and rng.random() < 0.5)
        else row
        for row in rows
    ]


def _types(rng: random.Random, rows: Rows) -> Rows:
    one, other = rng.choice(rows), rng.choice(rows)
    return [*rows, replace(one, topic=other.topic)]


def _bytes(rng: random.Random, rows: Rows) -> Rows:
    topic = _pick(rng, rows)

    def broken(data: bytes) -> bytes:
        content = bytearray(data)
        if content and rng.random() < 0.5:
            return bytes(content[: rng.randrange(len(content))])
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(min(len(content), 40))] = rng.randrange(256)
        return bytes(content)

    return [replace(row, data=broken(row.data)) if row.topic == topic and rng.random() < 0.3 else row for row in rows]


def _missing(rng: random.Random, rows: Rows) -> Rows:
    topic = _pick(rng, rows)
    return [row for row in rows if row.topic != topic or rng.random() < 0.1]


def _damage(rng: random.Random, path: Path) -> None:
    """Cut the file, or change bytes of it."""
    content = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        del content[rng.randrange(len(content)) :]
    else:
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)


_CHANGES: tuple[Callable[[random.Random, Rows], Rows], ...] = (
    *(_shift, _stamp, _unit, _log_times, _names, _order, _numbers, _size, _channels, _schema, _types, _bytes, _missing),
)
