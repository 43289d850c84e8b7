"""A child process that ends: what a stranger's program computes, within a time, a memory and a size of output.

The parent waits and kills; the child limits itself before it touches the program. Request and reply are files, so that
neither side can block the other.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

TIMEOUT_S = 20.0  # of steady time, the start of the interpreter included
CPU_S = 8  # of CPU time, imports included: what an honest template needs is a tenth of it
MEMORY_MB = 512  # of address space beyond what the child has when it begins
MAX_REPLY = 1 << 20  # bytes
MAX_SOURCE = 1 << 16  # characters of a chat template: the longest known are a quarter of it
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")  # a stranger's program learns no more
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from importlib import import_module; "
    "getattr(import_module(sys.argv[2]), 'main')()"
)


class Unanswered(Exception):
    """The child did not end in time, died, or wrote no reply; the text says which."""


def run_confined(module: str, request: object, *, timeout_s: float = TIMEOUT_S) -> Any:
    """The JSON that `module`'s `main` wrote in a child process to this JSON request. Raises Unanswered."""
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile() as request_file, tempfile.TemporaryFile() as reply_file:
        request_file.write(json.dumps(request).encode())
        request_file.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", _BOOT, json.dumps(sys.path), module],
            stdin=request_file,
            stdout=reply_file,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise Unanswered(f"it did not end within {timeout_s:g} s") from error
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        reply_file.seek(0)
        return _reply(reply_file.read(MAX_REPLY + 1), code)


def _reply(text: bytes, code: int) -> Any:
    try:
        if code != 0 or len(text) > MAX_REPLY:
            raise ValueError
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise Unanswered(f"it ended its process ({how}), as what takes too much memory or time does") from error


def request() -> Any:
    """The request, in the child."""
    return json.loads(sys.stdin.buffer.read())


def limit_self(*, cpu_s: int = CPU_S, memory_mb: int = MEMORY_MB) -> None:
    """Lower this process's limits for good: address space, CPU time, file size, open files, further processes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + (memory_mb << 20)
    for limit, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, MAX_REPLY),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))


def reply(result: object) -> None:
    """Write the result, in the child."""
    sys.stdout.write(json.dumps(result))
    sys.stdout.flush()
