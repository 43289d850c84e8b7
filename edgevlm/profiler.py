"""Durations -> percentiles; the facts of a machine that a figure needs beside it; observations to time steps with."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from edgevlm.manifest.contract import SECOND_NS, Contract, Observation, Stamped

PACKAGES = ("edgevlm", "numpy", "onnxruntime", "onnxruntime-gpu", "opencv-python-headless", "tokenizers")
NOISE_FRAMES = 16  # of each camera, in turn
STEPS_PER_INSTRUCTION = 25


def summarize(durations_ns: Sequence[int]) -> dict[str, float | int]:
    """{"p50", "p95", "p99", "max"} in milliseconds and "n"; NaN-free: no durations give zeros and n = 0."""
    if not durations_ns:
        return {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0, "n": 0}
    ms = np.asarray(durations_ns, np.float64) / 1e6
    p50, p95, p99 = np.percentile(ms, (50, 95, 99))
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(ms.max()), "n": len(ms)}


class StepRecorder:
    """Where the time of many steps went: call `add` after each step with the session's `last_times_ns`.

    `step` is the whole of `act`; `overhead` is the step without engine time and preprocess.
    """

    def __init__(self) -> None:
        self._durations: dict[str, list[int]] = {}

    def add(self, times_ns: Mapping[str, int]) -> None:
        """Take the times of one step, among them "step"."""
        parts = sum(duration for name, duration in times_ns.items() if name != "step")
        for name, duration in {**times_ns, "overhead": times_ns["step"] - parts}.items():
            self._durations.setdefault(name, []).append(duration)

    def summary(self) -> dict[str, dict[str, float | int]]:
        """One row for each name: stages, "preprocess", "overhead", "step"; n says in how many steps it ran."""
        return {name: summarize(durations) for name, durations in self._durations.items()}


def synthetic_observations(contract: Contract, instructions: Sequence[str], *, seed: int) -> Iterator[Observation]:
    """Endless observations that fit a contract, for profiles and never for fidelity.

    At the slowest camera rate: noise pictures, states around the mean, instructions in turn.
    """
    generator = np.random.default_rng(seed)
    pictures = {
        camera.name: [generator.integers(0, 256, camera.shape, np.uint8) for _ in range(NOISE_FRAMES)]
        for camera in contract.cameras
    }
    period_ns = round(SECOND_NS / min(camera.rate_hz[0] for camera in contract.cameras))
    fields = contract.state.fields if contract.state else ()
    mean = np.array([field.mean for field in fields])
    std = np.array([field.std for field in fields])
    for step in count():
        stamp_ns = SECOND_NS + step * period_ns
        frames = {name: Stamped(images[step % NOISE_FRAMES], stamp_ns) for name, images in pictures.items()}
        state = (mean + std * generator.standard_normal(len(fields))).astype(np.float32)
        yield Observation(
            frames=frames,
            state=Stamped(state, stamp_ns) if contract.state else None,
            instruction=instructions[step // STEPS_PER_INSTRUCTION % len(instructions)],
        )


def peak_rss_mb() -> float:
    """The most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def machine() -> dict[str, Any]:
    """CPU model, processors, system and versions, for every published figure."""
    return {
        "cpu": _cpu_model(),
        "processors": len(_affinity()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
