"""Emergency stops: one topic for each button, and a latch that only released buttons AND a re-arm end. No ROS.

A button is released when the only publisher of its topic has said so, and is still there. Everything else counts as
pressed: a topic that is silent, whose publisher has gone, or that has two publishers of which nobody knows who speaks.
Each message is heard by two subscriptions, a volatile one and a transient-local one, in any order among each other: a
button is released when the last word of each of them says so.

The latch lies in a file, so that it outlives the process: one for each gate, by its full node name. Latched, unreadable
or another node's: latched. No file: the first start, not latched. A file is replaced as a whole and flushed to the disk
with its directory before `write` returns; two gates of one name on one machine are refused.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import quote

from edgevlm.errors import LatchError
from edgevlm.manifest.contract import SECOND_NS

_LONGEST_NAME = 200  # of the 255 bytes that file systems allow
_MOST_BYTES = 4096


def latch_directory(environment: Mapping[str, str]) -> Path:
    """Where latches lie: ROS_HOME, or ~/.ros.

    Raises:
        LatchError: there is neither.
    """
    home = environment.get("ROS_HOME")
    try:
        root = Path(home).absolute() if home else Path.home() / ".ros"
    except RuntimeError as error:
        raise LatchError(f"the emergency stop's latch: no home directory ({error}); set ROS_HOME") from error
    return root / "edgevlm" / "estop"


def latch_file(node: str) -> str:
    """The file's name of a full node name: other names, other files."""
    name = quote(node, safe="")
    if len(name) > _LONGEST_NAME:
        name = f"{name[:100]}-{hashlib.sha256(node.encode()).hexdigest()}"
    return f"{name}.json"


class LatchStore:
    """One gate's file; locked from construction to `close`.

    Raises:
        LatchError: another process has it, or the directory cannot be written.
    """

    def __init__(self, directory: Path, node: str) -> None:
        self._node, self._directory = node, directory
        self.path = directory / latch_file(node)
        self._lock = -1
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            if error.errno in (errno.EAGAIN, errno.EACCES) and self.path.with_suffix(".lock").exists():
                why = "another process has it, or it belongs to somebody else; give each gate a namespace or a ROS_HOME"
                raise LatchError(f"{self.path}: the emergency stop's latch of {node}: {why}") from error
            raise self._unwritable(error) from error

    def read(self) -> bool:
        """Whether a stop is in force; see the module."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return True
            data = os.read(descriptor, _MOST_BYTES)
            stored = json.loads(data.decode())
        except (OSError, ValueError, RecursionError):
            return True
        finally:
            os.close(descriptor)
        return bool(stored != {"node": self._node, "latched": False} or stored["latched"] is not False)

    def write(self, latched: bool) -> None:
        """Replace the file; returns when it is on the disk.

        Raises:
            LatchError: it is not.
        """
        data = json.dumps({"node": self._node, "latched": latched}).encode() + b"\n"
        temporary = self.path.with_suffix(".new")
        try:
            with suppress(FileNotFoundError):
                temporary.unlink()
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
            try:
                os.write(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(self.path)
            self._flush_directory()
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Give the lock back."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _flush_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _unwritable(self, error: OSError) -> LatchError:
        return LatchError(
            f"{self.path}: the emergency stop's latch cannot be written ({error.strerror}), so a stop would not "
            "outlive a restart; make the directory writable, or set ROS_HOME to one that is"
        )


Publishers = Mapping[str, str]  # id in the graph -> name of its node
Status = Literal["released", "pressed", "silent", "conflict"]
GRACE_NS = 3 * SECOND_NS  # for a button's first word
_CONFIRM_NS = SECOND_NS  # a publisher that the graph shows this late may be the one who has said "released"


class Store(Protocol):
    """Where the latch outlives the process: see `LatchStore`."""

    def read(self) -> bool:
        """Whether the stop was in force when it was last written; True where that cannot be known."""

    def write(self, latched: bool) -> None:
        """Keep it, so that a restart, a crash or a power cut does not change it.

        Raises:
            LatchError: it could not be written.
        """


@dataclass
class _Button:
    topic: str
    words: dict[str, bool] = field(default_factory=dict)  # the last one of each subscription; True: pressed
    publishers: Publishers = field(default_factory=dict)
    released_by: str | None = None
    released_ns: int = 0  # when it was first released, and when it was last heard
    heard_ns: int = 0
    early: dict[str, int] = field(default_factory=dict)  # released by whom the graph does not show yet: when

    @property
    def released(self) -> bool:
        return self.released_by is not None and bool(self.words) and not any(self.words.values())

    @property
    def status(self) -> Status:
        if any(self.words.values()):
            return "pressed"
        if len(self.publishers) > 1:
            return "conflict"
        return "released" if self.released else "silent"


class Estops:
    """The emergency stop of one gate. Times are steady; one thread at a time.

    Args:
        topics: of the buttons; none for a robot that is only stopped by hardware.
        deadline_ns: a released button that says nothing for longer counts as pressed; 0: it may be silent.

    Attributes:
        latched: a stop is in force until `rearm`.
        fault: why the latch could not be written; the stop is in force all the same.
    """

    def __init__(self, topics: Sequence[str], store: Store, deadline_ns: int = 0) -> None:
        self._buttons = {topic: _Button(topic) for topic in topics}
        self._store, self._deadline_ns = store, deadline_ns
        self._active_ns: int | None = None
        self.latched = store.read()
        self.fault = ""

    @property
    def stopping(self) -> bool:
        """Whether nothing may be commanded."""
        return self.latched or not all(button.released for button in self._buttons.values())

    def start(self, now_ns: int) -> None:
        """The gate becomes active: a button has a few seconds for its first word.

        Raises:
            LatchError: the latch cannot be written, so a stop would not outlive this process.
        """
        self._store.write(self.latched)
        self.fault = ""
        self._active_ns = now_ns

    def stop(self) -> None:
        """The gate is no longer active; buttons still count."""
        self._active_ns = None

    def heard(self, topic: str, subscription: str, pressed: bool, look: Callable[[], Publishers], now_ns: int) -> None:
        """A message.

        Args:
            look: tells who publishes this topic at this moment; asked only where a release depends on it.
        """
        button = self._buttons[topic]
        if pressed:
            button.early.clear()
            button.words[subscription] = True
            self._latch()
            return
        self.check(now_ns)
        if not button.released or button.words.get(subscription, True):
            self._observe_publishers(button, look(), now_ns)
        if not button.publishers:
            button.early[subscription] = now_ns
        elif len(button.publishers) == 1:
            self._release(button, subscription, now_ns)

    def published(self, topics: Mapping[str, Publishers], now_ns: int) -> None:
        """Who publishes each topic now."""
        for topic, publishers in topics.items():
            button = self._buttons[topic]
            self._observe_publishers(button, publishers, now_ns)
            if len(publishers) == 1:
                for subscription, heard_ns in button.early.items():
                    self._release(button, subscription, heard_ns)
            button.early.clear()
        self.check(now_ns)
        if self.fault:
            self._latch()

    def check(self, now_ns: int) -> None:
        """Latch what has been silent for too long."""
        for button in self._buttons.values():
            if not button.released:
                if self._active_ns is not None and now_ns - self._active_ns > GRACE_NS:
                    self._latch()
            elif self._deadline_ns and now_ns - button.heard_ns > self._deadline_ns:
                _forget(button)
                self._latch()

    def rearm(self, topics: Mapping[str, Publishers], now_ns: int) -> str:
        """End the stop. Empty when nothing stops any more; otherwise what does, and what to do."""
        self.published(topics, now_ns)
        if stopping := [why for button in self._buttons.values() if (why := _why(button))]:
            return f"the emergency stop is still pressed: {'; '.join(stopping)}"
        if self.latched:
            try:
                self._store.write(False)
            except LatchError as error:
                return f"the emergency stop stays in force: {error}"
            self.latched, self.fault = False, ""
        return ""

    def statuses(self) -> dict[str, Status]:
        """Each topic with what counts."""
        return {topic: button.status for topic, button in self._buttons.items()}

    def reasons(self) -> list[str]:
        """Why nothing may be commanded: each button that is not released, or that only the re-arm is missing."""
        causes = [why for button in self._buttons.values() if (why := _why(button))]
        if not causes and self.latched:
            causes = ["every button is released: call ~/rearm"]
        return causes

    def _observe_publishers(self, button: _Button, publishers: Publishers, now_ns: int) -> None:
        """Take over who publishes; the words of a publisher that has gone are worth nothing."""
        gone = set(button.publishers) - set(publishers)
        came = set(publishers) - set(button.publishers)
        button.publishers = dict(publishers)
        if self.latched and came and button.released and now_ns - button.released_ns < _CONFIRM_NS:
            _forget(button)
        if not gone or (button.released and button.released_by in publishers):
            return
        if button.words:
            _forget(button)
            self._latch()

    def _release(self, button: _Button, subscription: str, now_ns: int) -> None:
        if not button.released:
            button.released_ns = now_ns
        button.words[subscription] = False
        button.released_by = next(iter(button.publishers))
        button.heard_ns = now_ns

    def _latch(self) -> None:
        if self.latched and not self.fault:
            return
        self.latched = True
        try:
            self._store.write(True)
            self.fault = ""
        except LatchError as error:
            self.fault = str(error)


def _forget(button: _Button) -> None:
    button.words.clear()
    button.released_by = None


def _why(button: _Button) -> str:
    """Why this button is not released, and what to do; empty when it is."""
    names = _names(button.publishers.values())
    if any(button.words.values()):
        also = f" and has {len(button.publishers)} publishers ({names})" if len(button.publishers) > 1 else ""
        return f"{button.topic} is pressed{also}"
    if len(button.publishers) > 1:
        return f"{button.topic} has {len(button.publishers)} publishers ({names}), expected one: end the others"
    if button.released:
        return ""
    if not button.publishers:
        return f"{button.topic} is silent, nobody publishes it: start its publisher (estop_topics lists the buttons)"
    return f"{button.topic} is silent: its publisher {names} must say that it is released"


def _names(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
