"""Writes a recording that any ROS 2 tool opens: profile `ros2`, CDR messages, complete schemas.

The same calls give the same bytes with the same versions of the libraries. The file appears under its name only when
complete; until then it lies under a hidden name, or where `part` says.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from edgevlm.errors import DependencyError, LogError, OutputError, ShapeError, require
from edgevlm.manifest.contract import CHANNELS
from edgevlm.rosmsg.schemas import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, POSE_STAMPED, STRING, definition

_NS = 1_000_000_000


class LogWriter:
    """One MCAP file; a context manager. Stamps are nanoseconds.

    Log times are the stamps, or what `log_clock` says for each message. An exception in the block leaves no file, but
    what lies at `part` stays there: all of it that was flushed can be read.

    Args:
        part: where the file lies until it is complete; must not exist.
        definitions: gives the schema text of a type.

    Raises:
        DependencyError: the extra `bags` is not installed.
        OutputError: the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        chunk_bytes: int = 1 << 20,
        log_clock: Callable[[], int] | None = None,
        part: Path | None = None,
        definitions: Callable[[str], str] = definition,
    ) -> None:
        self._path, self._part = Path(path), part
        self._log_clock, self._definitions = log_clock, definitions
        self._chunk_bytes = chunk_bytes
        self._library = require("mcap_ros2.writer", extra="bags")
        self._schemas: dict[str, Any] = {}
        self._types: dict[str, str] = {}
        self._raw_channels: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._open()

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._part is None:
                handle, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
                self._work, self._stream = Path(name), os.fdopen(handle, "wb")
            else:
                self._work, self._stream = self._part, self._part.open("xb")
        except OSError as error:
            raise self._refused(error) from error
        self._writer = self._library.Writer(self._stream, chunk_size=self._chunk_bytes)

    def _refused(self, error: OSError) -> OutputError:
        partial = f"; what was written so far lies at {self._part}" if self._part is not None else ""
        return OutputError(
            f"{self._path}: cannot be written ({error}){partial}; free some space or choose another place"
        )

    def compressed_image(
        self, topic: str, stamp_ns: int, data: bytes, *, form: str = "jpeg", frame_id: str = ""
    ) -> None:
        """An encoded picture: `data` holds the JPEG or PNG file's bytes."""
        message = {"header": _header(stamp_ns, frame_id), "format": form, "data": bytes(data)}
        self._write(topic, COMPRESSED_IMAGE, message, stamp_ns)

    def image(
        self,
        topic: str,
        stamp_ns: int,
        image_u8: NDArray[np.uint8],
        *,
        encoding: str,
        padding: int = 0,
        frame_id: str = "",
    ) -> None:
        """A raw picture, uint8 (H, W, C) or (H, W) for mono8; each row is followed by `padding` bytes.

        Raises:
            ShapeError: the array does not fit the encoding.
        """
        channels = CHANNELS.get(encoding)
        rows = image_u8.reshape(image_u8.shape[0], -1) if image_u8.ndim in (2, 3) else image_u8
        wide = image_u8.shape[1] * (channels or 0) if image_u8.ndim in (2, 3) else 0
        if image_u8.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != wide:
            raise ShapeError(
                f"topic {topic}: expected uint8 (height, width, channels) in one of {list(CHANNELS)}, "
                f"got {image_u8.dtype} {image_u8.shape} as {encoding!r}"
            )
        padded = np.pad(rows, ((0, 0), (0, padding)))
        message = {
            "header": _header(stamp_ns, frame_id),
            "height": image_u8.shape[0],
            "width": image_u8.shape[1],
            "encoding": encoding,
            "is_bigendian": 0,
            "step": padded.shape[1],
            "data": padded.tobytes(),
        }
        self._write(topic, IMAGE, message, stamp_ns)

    def pose(
        self,
        topic: str,
        stamp_ns: int,
        position_m: Sequence[float],
        quaternion_xyzw: Sequence[float] = (0.0, 0.0, 0.0, 1.0),
        *,
        frame_id: str = "",
    ) -> None:
        """A PoseStamped."""
        pose = {
            "position": dict(zip("xyz", map(float, position_m), strict=True)),
            "orientation": dict(zip("xyzw", map(float, quaternion_xyzw), strict=True)),
        }
        self._write(topic, POSE_STAMPED, {"header": _header(stamp_ns, frame_id), "pose": pose}, stamp_ns)

    def joints(
        self,
        topic: str,
        stamp_ns: int,
        position: Mapping[str, float],
        *,
        velocity: Sequence[float] = (),
        frame_id: str = "",
    ) -> None:
        """A JointState in the order of `position`."""
        message = {
            "header": _header(stamp_ns, frame_id),
            "name": list(position),
            "position": [float(value) for value in position.values()],
            "velocity": [float(value) for value in velocity],
            "effort": [],
        }
        self._write(topic, JOINT_STATE, message, stamp_ns)

    def string(self, topic: str, stamp_ns: int, text: str) -> None:
        """A std_msgs/String; it has no header, so its stamp is the log time only."""
        self._write(topic, STRING, {"data": text}, stamp_ns)

    def message(self, topic: str, type_name: str, message: Mapping[str, Any], stamp_ns: int) -> None:
        """A message of any type that has a definition, as nested mappings and lists, every field given.

        Raises:
            LogError: the type has no definition, or the topic another type.
        """
        self._write(topic, type_name, _attributes(message), stamp_ns)

    def raw(self, topic: str, type_name: str, cdr: bytes, log_ns: int) -> None:
        """A message as it came over the wire.

        Raises:
            LogError: the type has no definition, or the topic another type.
        """
        with self._translated():
            schema, sequence = self._next(topic, type_name)
            # The library's writer for ROS 2 encodes messages and takes no encoded ones; the one beneath it does.
            beneath = self._writer._writer
            if topic not in self._raw_channels:
                self._raw_channels[topic] = beneath.register_channel(topic, "cdr", schema.id)
            beneath.add_message(self._raw_channels[topic], log_ns, cdr, log_ns, sequence)

    def flush(self) -> None:
        """Make everything so far readable for others, even if this process ends now.

        Raises:
            DependencyError: the library is too old for it.
            OutputError: it cannot be written.
        """
        flush = getattr(self._writer._writer, "flush", None)
        if flush is None:
            raise DependencyError(
                "flushing a recording needs a newer package 'mcap'; install it with: pip install -U mcap"
            )
        with self._translated():
            flush()

    def _write(self, topic: str, type_name: str, message: Any, stamp_ns: int) -> None:
        with self._translated():
            schema, sequence = self._next(topic, type_name)
            log_ns = stamp_ns if self._log_clock is None else self._log_clock()
            self._writer.write_message(topic, schema, message, log_ns, log_ns, sequence)

    def _next(self, topic: str, type_name: str) -> tuple[Any, int]:
        """The schema and the number of a topic's next message."""
        if self._types.get(topic, type_name) != type_name:
            raise LogError(f"topic {topic}: expected {self._types[topic]} as before, got {type_name}; use two topics")
        if type_name not in self._schemas:
            self._schemas[type_name] = self._writer.register_msgdef(type_name, self._definitions(type_name))
        self._types[topic] = type_name
        sequence = self._counts[topic] = self._counts.get(topic, 0) + 1
        return self._schemas[type_name], sequence

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._refused(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._discard()

    def close(self) -> None:
        """Finish the file and give it its name; once.

        Raises:
            OutputError: it cannot be written; nothing is left behind but what lies at `part`.
        """
        if self._stream.closed:
            return
        try:
            self._writer.finish()
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._work.chmod(0o644)
            self._work.replace(self._path)
        except OSError as error:
            self._discard()
            raise self._refused(error) from error

    def _discard(self) -> None:
        with contextlib.suppress(OSError):  # a full disk refuses the last flush; the file goes anyway
            self._stream.close()
        if self._part is None:
            self._work.unlink(missing_ok=True)


def _attributes(value: Any) -> Any:
    """Mappings as objects: older versions of the library take a field `values` of a dict for its method."""
    if isinstance(value, Mapping):
        return SimpleNamespace(**{name: _attributes(part) for name, part in value.items()})
    return [_attributes(part) for part in value] if isinstance(value, list) else value


def _header(stamp_ns: int, frame_id: str) -> dict[str, Any]:
    if stamp_ns < 0:
        raise LogError(f"stamp {stamp_ns} ns: ROS 2 messages hold no stamps before 0")
    return {"stamp": {"sec": stamp_ns // _NS, "nanosec": stamp_ns % _NS}, "frame_id": frame_id}
