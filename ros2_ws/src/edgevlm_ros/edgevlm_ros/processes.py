"""Nodes as plain processes, each with its own log: for demos, benchmarks and tests. Robots use the launch files."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ament_index_python.packages import get_package_share_directory
from typing_extensions import Self

_STOP_S = 10.0
_DOMAINS = range(20, 100)  # ports of higher ones run into the range that systems hand out


def free_domain() -> int:
    """A ROS_DOMAIN_ID that no process on this machine uses now, going by its discovery port.

    Source: DDS-RTPS 2.2, 9.6.1.1: multicast discovery listens on 7400 + 250 * domain, unicast on 7410 + ... .
    """
    start = os.getpid() % len(_DOMAINS)
    for domain in (*_DOMAINS[start:], *_DOMAINS[:start]):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.bind(("", 7410 + 250 * domain))
            return int(domain)
    raise RuntimeError(f"every ROS_DOMAIN_ID of {_DOMAINS.start} to {_DOMAINS.stop - 1} is in use here")


def environment(domain: int | None = None) -> dict[str, str]:
    """This process's environment, with DDS set up for camera images; with `domain`, also kept to this machine."""
    profile = Path(get_package_share_directory("edgevlm_ros")) / "config" / "fastdds.xml"
    variables = {**os.environ, "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile), "PYTHONUNBUFFERED": "1"}
    if domain is not None:
        variables.update(ROS_DOMAIN_ID=str(domain), ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
    return variables


class Processes:
    """Starts nodes and ends all of them when left. A context manager.

    Args:
        logs: a directory; each process writes `<name>.log` there, appended when it is started again.
        environment: without a ROS_HOME the processes get one of their own, so that the latch of an emergency stop
            outlives each of them, and not all of them.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs, self._environment = logs, dict(environment)
        self._home = tempfile.TemporaryDirectory(prefix="edgevlm-ros-")
        self._environment.setdefault("ROS_HOME", self._home.name)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._streams: list[IO[bytes]] = []
        logs.mkdir(parents=True, exist_ok=True)

    def start(  # noqa: PLR0913 - everything that a ROS process is told
        self,
        name: str,
        module: str | Path,
        *,
        parameters: Mapping[str, Any] | None = None,
        files: Sequence[Path] = (),
        remaps: Mapping[str, str] | None = None,
        namespace: str = "",
        arguments: Sequence[str] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a module (`edgevlm_ros.policy_node`) or a file with ROS arguments; `name` names process and log."""
        target = [str(module)] if isinstance(module, Path) else ["-m", module]
        ros = [item for path in files for item in ("--params-file", str(path))]
        ros += [item for key, value in (parameters or {}).items() for item in ("-p", f"{key}:={json.dumps(value)}")]
        ros += [item for key, value in (remaps or {}).items() for item in ("-r", f"{key}:={value}")]
        if namespace:
            ros += ["-r", f"__ns:=/{namespace.strip('/')}"]
        command = [sys.executable, *target, *arguments, *(["--ros-args", *ros] if ros else [])]
        stream = (self._logs / f"{name}.log").open("ab")
        self._streams.append(stream)
        process = subprocess.Popen(
            command, env=self._environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._running[name] = process
        return process

    def __getitem__(self, name: str) -> subprocess.Popen[bytes]:
        return self._running[name]

    def log(self, name: str) -> str:
        """What the process has written so far."""
        return (self._logs / f"{name}.log").read_text(errors="replace")

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process and its children, and wait for its end."""
        process = self._running.pop(name)
        _signal(process, number)
        process.wait(_STOP_S)

    def check(self) -> None:
        """Raises RuntimeError with the end of its log when a process has ended by itself with an error."""
        for name, process in self._running.items():
            if process.poll():
                tail = "\n".join(self.log(name).splitlines()[-30:])
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{tail}")

    def close(self) -> None:
        """End all: SIGINT, and SIGKILL for what is left after ten seconds."""
        for process in self._running.values():
            _signal(process, signal.SIGINT)
        deadline = time.monotonic() + _STOP_S
        for process in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            if process.poll() is None:
                _signal(process, signal.SIGKILL)
                process.wait()
        for stream in self._streams:
            stream.close()
        self._running.clear()
        self._home.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
