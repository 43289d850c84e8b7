"""What the command gate tells about itself: counts, periods and ages as rows of diagnostics. See command_gate."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np

from edgevlm.gate.admission import Reason
from edgevlm.gate.columns import Column
from edgevlm.gate.gate import GateCommand
from edgevlm.gate.limits import Cause, GateLimits
from edgevlm.loop.watchdog import Row
from edgevlm.manifest.contract import SECOND_NS, ActionChunk
from edgevlm_ros.lifecycle_node import Report
from edgevlm_ros.policy_speed import Chunks, GateDeadline, Step, judge

_PERIODS = 1000
_STEPS = 16
_LOG_EVERY_NS = SECOND_NS
REFUSALS = (
    *(f"chunk.{reason}" for reason in ("schema", "bundle", *get_args(Reason))),
    "heartbeat.schema",
    "command.late",
    *(f"state.{reason}" for reason in ("path", *get_args(Reason))),
)


class Seldom:
    """Which refusals are to be logged: each reason at most once a second."""

    def __init__(self) -> None:
        self._logged_steady_ns: dict[str, int] = {}

    def may(self, key: str, now_steady_ns: int) -> bool:
        """Whether to log this one."""
        last_ns = self._logged_steady_ns.get(key)
        if last_ns is not None and now_steady_ns - last_ns < _LOG_EVERY_NS:
            return False
        self._logged_steady_ns[key] = now_steady_ns
        return True


class Periods:
    """Steady time between the last commands."""

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._periods_ns: deque[int] = deque(maxlen=_PERIODS)

    def tick(self, now_steady_ns: int) -> None:
        """A command was computed now."""
        if self._last_ns is not None:
            self._periods_ns.append(now_steady_ns - self._last_ns)
        self._last_ns = now_steady_ns

    def report(self, target_s: float) -> Report:
        """Over the last 1000."""
        figures: dict[str, object] = {"n": len(self._periods_ns), "target_ms": target_s * 1e3}
        periods_ms = np.array(self._periods_ns, np.float64) / 1e6
        for name, share in (("p50_ms", 50), ("p99_ms", 99), ("max_ms", 100)):
            figures[name] = float(np.percentile(periods_ms, share)) if len(periods_ms) else 0.0
        return ("period", "ok", "time between commands", figures)


class ChunkPace:
    """Whether the policy's steps, which its chunks tell of, are too slow for this gate.

    Attributes:
        gate: what the gate tells the policy.
        advice: what to change; empty while nothing need be.
    """

    def __init__(self, limits: GateLimits) -> None:
        self.gate = GateDeadline(limits.deadline_s * 1e3, limits.chunk_deadline)
        self.advice = ""
        self._took_ms: deque[float] = deque(maxlen=_STEPS)

    def took(self, step_ns: int, chunk: ActionChunk) -> str:
        """A chunk came whose step took so long; what to log now."""
        self._took_ms.append(max(0.0, step_ns / 1e6))
        step = Step(min(self._took_ms), max(self._took_ms), len(self._took_ms), 0.0)
        level, text = judge(step, Chunks(len(chunk.values), chunk.step_s * 1e3), self.gate)
        before, self.advice = self.advice, text if level == "error" else ""
        return self.advice if not before else ""


def gate_row(command: GateCommand | None, counts: Mapping[str, int]) -> Report:
    """What the gate does now, and what it has done."""
    figures: dict[str, object] = {
        "mode": command.mode if command else "",
        "cause": (command.cause or "") if command else "",
        "since": (command.since_ns or 0) / SECOND_NS if command else 0.0,
        "number": command.number if command else 0,
        **{f"command.{mode}": counts.get(f"command.{mode}", 0) for mode in ("follow", "hold", "decelerate", "stop")},
        "clock.restarts": counts.get("clock.restarts", 0),
    }
    if command is None:
        return ("gate", "warn", "no command yet", figures)
    if command.mode == "follow":
        return ("gate", "ok", "follows the chunks", figures)
    return ("gate", "error" if command.stop else "warn", f"{command.mode}: {command.cause}", figures)


def input_row(rows: Sequence[Row], slow: str = "") -> Report:
    """Rates and ages of what comes in; `slow` says that chunks cannot come in time."""
    figures: dict[str, object] = {}
    for row in rows:
        figures[f"{row.name}.health"] = row.health
        figures[f"{row.name}.rate_hz"] = row.rate_hz
        figures[f"{row.name}.silent_s"] = row.silent_s
        figures[f"{row.name}.age_ms"] = "" if row.age_ms is None else row.age_ms
        figures[f"{row.name}.count"] = row.beats
        figures[f"{row.name}.missing"] = row.missing
    silent = [row.name for row in rows if row.health == "missing"]
    advice = [*([f"missing: {', '.join(silent)}"] if silent else []), *([slow] if slow else [])]
    return ("inputs", "warn" if advice else "ok", "; ".join(advice) or "all come", figures)


def count_rows(counts: Mapping[str, int], refused: Mapping[str, int], columns: Sequence[Column]) -> list[Report]:
    """Every refusal, fallback and changed column since activation, each key always there."""
    refusals: dict[str, object] = {key: counts.get(key, 0) + refused.get(key, 0) for key in REFUSALS}
    refusals |= {key: counts.get(key, 0) for key in ("chunk.accepted", "state.accepted")}
    fallbacks: dict[str, object] = {cause: counts.get(f"fallback.{cause}", 0) for cause in get_args(Cause)}
    limited: dict[str, object] = {column.name: counts.get(f"limited.{column.name}", 0) for column in columns}
    return [
        ("refusals", "ok", "refused inputs by reason", refusals),
        ("fallbacks", "ok", "times each cause began", fallbacks),
        ("limited", "ok", "commands that limits changed, by column", limited),
    ]


def rival_row(rivals: Mapping[str, str]) -> Report:
    """Topics with a second publisher, and who publishes them."""
    figures: dict[str, object] = {"count": len(rivals), "topics": ", ".join(rivals)}
    if rivals:
        return ("rivals", "error", f"{'; '.join(rivals.values())}: end all but one", figures)
    return ("rivals", "ok", "none", figures)
