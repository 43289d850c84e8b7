"""Reading files that somebody else may have made: never more than a stated size, never more than numbers."""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def map_numbers(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array of a .npy file, mapped into memory: what its header announces is not allocated.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no .npy file of integers and floats (objects would be code), or its size is not what its
            header says.
    """
    with warnings.catch_warnings():  # NumPy and Python's parser warn of odd headers
        warnings.simplefilter("ignore")
        try:
            array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="r")
        except OSError:
            raise
        except Exception as error:  # a header makes NumPy raise whatever Python's parser and the types raise
            raise ValueError(f"{type(error).__name__}: {error!s:.200}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"the type {array.dtype!s:.40}, where integers and floats are read")
    size = os.stat(path).st_size
    if array.offset + array.nbytes != size:
        raise ValueError(f"{size} bytes where {array.dtype} {array.shape} needs {array.offset + array.nbytes}")
    return array
