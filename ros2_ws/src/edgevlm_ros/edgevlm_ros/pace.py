"""Whether a policy is fast enough to be followed: how long a step takes against chunks, rates and the gate. No ROS.

A chunk's rows are meant for the time from its observation on. The step uses up the first of them; the rest must last
until the next chunk is there, and the next chunk must be there before the gate misses it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Literal

from edgevlm.errors import ContractError
from edgevlm.gate.limits import ChunkDeadline

Level = Literal["ok", "warn", "error"]
_NEAR = 1.2  # within this factor of a limit the next step may be over it
_ROOM = 1.5
_MOST_TEXT = 1 << 16  # of what a gate says
_WHOSE = "check which node publishes it"
_FASTER = "use a faster machine, engine or precision (parameters engine, intra_threads), or a model with longer chunks"


@dataclass(frozen=True)
class Step:
    """What a step of the model takes on this machine, in milliseconds.

    Attributes:
        p99_ms: the slowest but one in a hundred of `steps`; `best_ms` the fastest.
        period_ms: between two observations: a step cannot begin more often.
    """

    best_ms: float
    p99_ms: float
    steps: int
    period_ms: float

    @property
    def interval_ms(self) -> float:
        """Between two chunks."""
        return max(self.p99_ms, self.period_ms)


@dataclass(frozen=True)
class Chunks:
    """`rows` of a chunk, `row_ms` apart."""

    rows: int
    row_ms: float

    @property
    def horizon_ms(self) -> float:
        """From the observation to the end of the last row."""
        return self.rows * self.row_ms


@dataclass(frozen=True)
class GateSays:
    """What the gate's latched topic `gate_limits` says."""

    deadline_ms: float
    chunk_deadline: ChunkDeadline

    def text(self) -> str:
        """As it travels."""
        return json.dumps({"deadline_ms": self.deadline_ms, "chunk_deadline": self.chunk_deadline})


def read_gate(text: str) -> GateSays:
    """The gate's message.

    Raises:
        ContractError: it is of another version, or no gate's.
    """
    if len(text) > _MOST_TEXT:
        raise ContractError(f"gate_limits: expected at most {_MOST_TEXT} characters, got {len(text)}; {_WHOSE}")
    try:
        fields = json.loads(text)
        gate = GateSays(float(fields["deadline_ms"]), fields["chunk_deadline"])
        if gate.chunk_deadline in ("deadline", "whole_chunk") and 0 < gate.deadline_ms < math.inf:
            return gate
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        pass
    raise ContractError(f"gate_limits: expected deadline_ms and chunk_deadline, got {text!r:.80}; {_WHOSE}")


def check_horizon(step: Step, chunks: Chunks) -> None:
    """Refuse a model of which no chunk is ever there in time.

    Raises:
        ContractError: even the fastest step outlasts a whole chunk.
    """
    if step.best_ms >= chunks.horizon_ms:
        raise ContractError(
            f"the model is too slow here: {_step(step)}, and its chunks are over after {_rows(chunks)}, so none can be "
            f"followed; {_FASTER}; in simulated time set use_sim_time, and this is a warning"
        )


def judge(step: Step, chunks: Chunks, gate: GateSays | None) -> tuple[Level, str]:
    """How it will go, with the numbers and the value to set; `gate` None: not heard of."""
    if gate is not None and gate.chunk_deadline == "deadline" and step.interval_ms * _NEAR > gate.deadline_ms:
        return _too_slow_for(gate, step, chunks)
    if step.interval_ms + step.p99_ms > chunks.horizon_ms:
        return "warn", (
            f"a chunk is used up before the next one comes: {_step(step)}, a chunk lasts {_rows(chunks)}; the robot "
            f"will stop between chunks; {_FASTER}"
        )
    return "ok", "ok"


def _too_slow_for(gate: GateSays, step: Step, chunks: Chunks) -> tuple[Level, str]:
    over = step.interval_ms > gate.deadline_ms
    how = "too slow" if over else "nearly too slow"
    bears = 2 * step.interval_ms <= chunks.horizon_ms
    instead = f", or chunk_deadline to whole_chunk (a chunk lasts {_rows(chunks)})" if bears else ""
    return "error" if over else "warn", (
        f"this policy is {how} for its gate: {_step(step)}, and the gate falls back when no chunk comes for "
        f"{gate.deadline_ms:.0f} ms; set its deadline_ms to at least {least_deadline_ms(step):.0f}{instead}"
    )


def least_deadline_ms(step: Step) -> float:
    """The least `deadline_ms` of a gate for this step, with room, in whole tens."""
    return math.ceil(_ROOM * step.interval_ms / 10) * 10


def _step(step: Step) -> str:
    rate = f", observations come every {step.period_ms:.0f} ms" if step.period_ms else ""
    return f"a step takes {step.p99_ms:.0f} ms (p99 of {step.steps}){rate}"


def _rows(chunks: Chunks) -> str:
    return f"{chunks.horizon_ms:.0f} ms, {chunks.rows} rows of {chunks.row_ms:g} ms"
