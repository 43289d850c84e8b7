"""The latch of an emergency stop in a file, so that it outlives the process: one for each gate, by its full node name.

Latched, unreadable or another node's: latched. No file: the first start, not latched. A file is replaced as a whole and
flushed to the disk with its directory before `write` returns; two gates of one name on one machine are refused.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from edgevlm.errors import LatchError

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
