"""Reading files that somebody else may have made: regular files only, never a link, never more than a stated size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MB = 1 << 20


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it is missing, is a link, a pipe, a device or a directory, or is larger; nothing of it is read then.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("expected a regular file")
        if status.st_size > most_bytes:
            raise OSError(f"expected at most {most_bytes} bytes, got {status.st_size}")
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(f"expected at most {most_bytes} bytes, got more")
    return content
