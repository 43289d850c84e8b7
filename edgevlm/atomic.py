"""Writing so that a reader, at any instant and after any end of the writer, has the old content or the new one, whole.

A file is written beside its place, flushed to the disk and renamed. A directory is built beside its place; where there
is one already the two are exchanged in one system call (renameat2, Linux), where the file system has no such call they
are renamed one after the other, and what a writer that died between the two left behind is put back by the next one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT}
_TRIES = 100
_MARK = "edgevlm-"  # in the names of what is being written, so that leftovers are known as ours
_ASIDE = "old"  # in such a directory: what stood at the destination
_ENDINGS: dict[signal.Signals, Any] = {  # signal -> what its handler is where nothing else was said of it
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}


def write_file(path: Path, content: bytes) -> None:
    """A file that is there complete or not at all; its folder is made where it is missing. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, work = tempfile.mkstemp(prefix=f".{path.name}.{_MARK}", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
            os.fsync(stream.fileno())
        Path(work).replace(path)
    except BaseException:
        Path(work).unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def new_directory(destination: Path, check: Callable[[], None]) -> Iterator[Path]:
    """A directory beside `destination` that takes its name when the block ends well, and vanishes otherwise.

    SIGTERM and SIGHUP end the block like an exception, where nothing else was said of them. Two writers of one place
    do not disturb each other: the last one's content stays.

    Args:
        check: raises where what stands at the destination may not be replaced; called before and after the block.

    Raises:
        OSError: it cannot be written.
    """
    check()
    destination.parent.mkdir(parents=True, exist_ok=True)
    _sweep(destination)
    with _Endings() as endings:
        work, lock = _held(destination)
        try:
            endings.at_once()
            yield work
            check()
            work.chmod(0o755)
            _sync_all(work)
            _place(work, destination)
            _sync(destination.parent)
        finally:
            endings.wait = True
            if work.is_symlink():  # one that stood at the destination
                work.unlink()
            shutil.rmtree(work, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def _place(work: Path, destination: Path) -> None:
    """Give `work` the name `destination`; what stood there is at `work` afterwards."""
    for _ in range(_TRIES):  # another writer may come between two calls
        try:
            if destination.exists():
                exchange(work, destination)
            else:
                work.rename(destination)
            return
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
    raise OSError(errno.EBUSY, "other writers replace it all the time")


def exchange(one: Path, other: Path) -> None:
    """Swap two names, in one step where the file system can do so. Raises OSError."""
    try:
        _exchange_at_once(one, other)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        _exchange_in_turn(one, other)


def _exchange_in_turn(one: Path, other: Path) -> None:
    aside, lock = _held(other)
    try:
        other.rename(aside / _ASIDE)
        try:
            one.rename(other)
        except BaseException:
            (aside / _ASIDE).rename(other)
            raise
        (aside / _ASIDE).rename(one)
    finally:
        with suppress(OSError):
            aside.rmdir()
        if lock is not None:
            os.close(lock)


def _exchange_at_once(one: Path, other: Path) -> None:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, "no renameat2 here")
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def _sweep(destination: Path) -> None:
    """Remove what writers of this place left when they were killed; put back what such a one had set aside."""
    ours = re.compile(rf"\.{re.escape(destination.name)}\.{_MARK}[a-z0-9_]{{8}}")
    for leftover in [path for path in destination.parent.iterdir() if ours.fullmatch(path.name)]:
        if leftover.is_symlink() or not leftover.is_dir():
            continue
        lock = _lock(leftover)
        if lock is None:  # its writer lives, or this file system cannot tell
            continue
        try:
            if not destination.exists() and (leftover / _ASIDE).is_dir():
                (leftover / _ASIDE).rename(destination)
            shutil.rmtree(leftover, ignore_errors=True)
        finally:
            os.close(lock)


def _held(destination: Path) -> tuple[Path, int | None]:
    """A new directory beside `destination` that no other writer sweeps while this process lives."""
    for _ in range(_TRIES):
        work = Path(tempfile.mkdtemp(prefix=f".{destination.name}.{_MARK}", dir=destination.parent))
        lock = _lock(work)
        if lock is not None and work.exists():
            return work, lock
        if lock is not None:  # swept before it was held
            os.close(lock)
    return work, None  # a file system without locks: nothing is swept there either


def _lock(directory: Path) -> int | None:
    """Hold the directory as its writer does, as long as this process lives; None where another one holds it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


class _Endings:
    """Turns the signals that would end this process at once into SystemExit, so that what is half-written goes.

    Attributes:
        wait: a signal is remembered until `at_once` is called or the block ends.
    """

    def __init__(self) -> None:
        self.wait = True
        self._late: int | None = None
        self._taken: list[signal.Signals] = []

    def __enter__(self) -> _Endings:
        if threading.current_thread() is threading.main_thread():
            self._taken = [number for number, usual in _ENDINGS.items() if signal.getsignal(number) is usual]
        for number in self._taken:
            signal.signal(number, self._leave)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number in self._taken:
            signal.signal(number, _ENDINGS[number])
        if kind is None:
            self._leave_late()

    def at_once(self) -> None:
        """From now on a signal raises; one that was remembered does so now."""
        self.wait = False
        self._leave_late()

    def _leave(self, number: int, _: FrameType | None) -> None:
        self._late = number
        if not self.wait:
            self._leave_late()

    def _leave_late(self) -> None:
        if self._late == signal.SIGINT:
            raise KeyboardInterrupt
        if self._late is not None:
            raise SystemExit(128 + self._late)


def _sync_all(root: Path) -> None:
    for folder, _, files in os.walk(root):
        for name in files:
            _sync(Path(folder, name))
        _sync(Path(folder))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some file systems cannot, and say so
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
