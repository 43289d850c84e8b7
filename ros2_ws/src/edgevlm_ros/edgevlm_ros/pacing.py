"""What policy_node knows of its own pace: measured before the first chunk, then as steps go. No ROS, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgevlm.manifest.contract import ActionSpec
from edgevlm_ros.pace import Chunks, GateSays, Level, Step, check_horizon, judge

_ENOUGH = 5  # steps of the worker, before they count
_ALLOWANCE = 2.0
_ALLOWANCE_MS = 100.0

Row = tuple[str, str, str, Mapping[str, object]]


class Pacing:
    """Call `measured` once a model is loaded, `observed` and `check` at activation, `lately` while it runs.

    Attributes:
        gate: what the gate said; None: nothing yet.
    """

    def __init__(self) -> None:
        self.gate: GateSays | None = None
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
        """See `pace.check_horizon`."""
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
