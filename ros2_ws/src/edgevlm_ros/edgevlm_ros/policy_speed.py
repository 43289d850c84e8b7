"""Whether a policy is fast enough to be followed: how long a step takes against chunks, rates and the gate. No ROS.

A chunk's rows are meant for the time from its observation on. The step uses up the first of them; the rest must last
until the next chunk is there, and the next chunk must be there before the gate misses it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgevlm.errors import ContractError
from edgevlm.gate.limits import ChunkDeadline
from edgevlm.manifest.contract import ActionSpec

Level = Literal["ok", "warn", "error"]
Row = tuple[str, str, str, Mapping[str, object]]
_NEAR = 1.2  # within this factor of a limit the next step may be over it
_ROOM = 1.5
_MOST_TEXT = 1 << 16  # of what a gate says
_WHOSE = "check which node publishes it"
_ENOUGH = 5  # steps of the worker, before they count
_ALLOWANCE = 2.0
_ALLOWANCE_MS = 100.0
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
class GateDeadline:
    """What the gate's latched topic `gate_limits` says."""

    deadline_ms: float
    chunk_deadline: ChunkDeadline

    def text(self) -> str:
        """As it travels."""
        return json.dumps({"deadline_ms": self.deadline_ms, "chunk_deadline": self.chunk_deadline})


def read_gate(text: str) -> GateDeadline:
    """The gate's message.

    Raises:
        ContractError: it is of another version, or no gate's.
    """
    if len(text) > _MOST_TEXT:
        raise ContractError(f"gate_limits: expected at most {_MOST_TEXT} characters, got {len(text)}; {_WHOSE}")
    try:
        fields = json.loads(text)
        gate = GateDeadline(float(fields["deadline_ms"]), fields["chunk_deadline"])
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


def judge(step: Step, chunks: Chunks, gate: GateDeadline | None) -> tuple[Level, str]:
    """How it will go, with the numbers and the value to set; `gate` None: not heard of."""
    if gate is not None and gate.chunk_deadline == "deadline" and step.interval_ms * _NEAR > gate.deadline_ms:
        return _too_slow_for(gate, step, chunks)
    if step.interval_ms + step.p99_ms > chunks.horizon_ms:
        return "warn", (
            f"a chunk is used up before the next one comes: {_step(step)}, a chunk lasts {_rows(chunks)}; the robot "
            f"will stop between chunks; {_FASTER}"
        )
    return "ok", "ok"


def _too_slow_for(gate: GateDeadline, step: Step, chunks: Chunks) -> tuple[Level, str]:
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


class PolicySpeed:
    """What policy_node knows of its own speed: measured before the first chunk, then as steps go. No clock.

    Call `measured` once a model is loaded, `observed` and `check` at activation, `lately` while it runs.

    Attributes:
        gate: what the gate said; None: nothing yet.
    """

    def __init__(self) -> None:
        self.gate: GateDeadline | None = None
        self._best_ms = self._p99_ms = self._live_p99_ms = self._period_ms = 0.0
        self._steps = self._live = 0
        self._chunks = Chunks(1, 1.0)
        self._level: Level = "ok"

    def measured(self, times_ns: Sequence[int], action: ActionSpec) -> None:
        """Steps of the model on this machine, before anything depends on them."""
        self._best_ms, self._p99_ms = min(times_ns) / 1e6, float(np.percentile(times_ns, 99)) / 1e6
        self._steps, self._live, self._live_p99_ms = len(times_ns), 0, 0.0
        self._chunks = Chunks(action.steps, action.step_s * 1e3)

    def observed(self, rates_hz: Sequence[float | None]) -> None:
        """How often each camera sends; the slowest decides how often there is an observation."""
        self._period_ms = max((1e3 / rate for rate in rates_hz if rate), default=0.0)
        self._level = "ok"

    def lately(self, latency: Mapping[str, float | int]) -> None:
        """What the steps since activation took, as `Worker.latency`."""
        if latency["n"] >= _ENOUGH:
            self._live, self._live_p99_ms = int(latency["n"]), float(latency["p99"])

    def check(self) -> None:
        """See `check_horizon`."""
        check_horizon(self.step, self._chunks)

    @property
    def step(self) -> Step:
        """The slower of what was measured before and what happened since."""
        if self._live_p99_ms > self._p99_ms:
            return Step(self._best_ms, self._live_p99_ms, self._live, self._period_ms)
        return Step(self._best_ms, self._p99_ms, self._steps, self._period_ms)

    @property
    def allowed_ns(self) -> int:
        """How long a step may take before its model counts as one that hangs."""
        return round((_ALLOWANCE * self.step.p99_ms + _ALLOWANCE_MS) * 1e6)

    def report(self) -> tuple[Row, str]:
        """The row of diagnostics, and what to log now: the text when it has become worse, else nothing."""
        step, gate = self.step, self.gate
        level, text = judge(step, self._chunks, gate)
        figures: dict[str, object] = {
            "step_ms_p99": step.p99_ms,
            "steps": step.steps,
            "interval_ms": step.interval_ms,
            "horizon_ms": self._chunks.horizon_ms,
            "gate_deadline_ms": gate.deadline_ms if gate else "",
            "gate_chunk_deadline": gate.chunk_deadline if gate else "",
        }
        order = ("ok", "warn", "error")
        news = text if order.index(level) > order.index(self._level) else ""
        self._level = level
        return ("pace", level, text, figures), news
