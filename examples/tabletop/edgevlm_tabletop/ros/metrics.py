"""Figures of episodes driven over ROS, from what the gate and the policy say of themselves. No ROS and no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgevlm.profiler import summarize


@dataclass(frozen=True)
class Followed:
    """A command that followed a chunk: its stamp, and that of the observation the chunk was made from."""

    stamp_ns: int
    observed_ns: int


@dataclass(frozen=True)
class Inferred:
    """One inference: its observation's stamp, its durations, and how many frames had been received by then."""

    observed_ns: int
    latency_ms: float
    step_ms: float
    frames_received: int


class Metrics:
    """Collects episode by episode; what belongs to no frame of an episode is left out.

    latency_ms: from the stamp of an observation to that of the first command computed from it.
    command_age_ms: from the stamp of the observation to that of every command computed from it.
    overhead_ms: latency of a chunk without the model's step: transport, decoding, matching, waiting.
    frames: from the first to the last frame of an episode that was inferred from, those sent and those received.
    """

    def __init__(self) -> None:
        self._latency_ns: list[int] = []
        self._age_ns: list[int] = []
        self._overhead_ns: list[int] = []
        self._step_ns: list[int] = []
        self._sent = self._received = 0

    def add(self, frames_ns: Sequence[int], followed: Sequence[Followed], inferred: Sequence[Inferred]) -> None:
        """Take one episode: the stamps of its frames, and what was said while it went on, in any order."""
        mine = set(frames_ns)
        first: dict[int, int] = {}
        for command in followed:
            if command.observed_ns in mine:
                age_ns = command.stamp_ns - command.observed_ns
                self._age_ns.append(age_ns)
                first[command.observed_ns] = min(age_ns, first.get(command.observed_ns, age_ns))
        self._latency_ns.extend(first.values())
        steps = sorted((step for step in inferred if step.observed_ns in mine), key=lambda step: step.observed_ns)
        for step in steps:
            self._overhead_ns.append(round((step.latency_ms - step.step_ms) * 1e6))
            self._step_ns.append(round(step.step_ms * 1e6))
        if steps:
            begin, end = steps[0], steps[-1]
            self._sent += sum(begin.observed_ns <= stamp_ns <= end.observed_ns for stamp_ns in frames_ns)
            self._received += end.frames_received - begin.frames_received + 1

    def to_json(self) -> dict[str, Any]:
        """The figures; durations in milliseconds."""
        return {
            "latency_ms": summarize(self._latency_ns),
            "command_age_ms": summarize(self._age_ns),
            "overhead_ms": summarize(self._overhead_ns),
            "step_ms": summarize(self._step_ns),
            "frames_sent": self._sent,
            "frames_received": self._received,
        }
