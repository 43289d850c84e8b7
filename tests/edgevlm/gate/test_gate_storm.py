"""Random sequences of clocks, pushes, chunks and faults: every command is within its limits. And what if it were not?

`benchmarks/attacks.py --only gate` runs them for as long as you like.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gate_storm import Storm

from edgevlm.clock import ControlClock, Elapsed
from edgevlm.gate import motion
from edgevlm.gate.limits import Cause
from edgevlm.gate.motion import At, Motion
from edgevlm.gate.rotation import numbers


def test_no_storm_breaks_a_limit() -> None:
    counts: Counter[str] = Counter()
    judged = 0
    for seed in range(120):
        storm = Storm(seed)
        storm.run()
        counts += storm.gate.counts
        judged += storm.judged
    # The storms are worth their name: everything came up.
    assert judged > 5000
    causes: set[Cause] = {"estop", "clock_stopped", "clock_jump", "tracking", "state_not_finite", "outside_workspace"}
    assert {f"fallback.{cause}" for cause in causes} <= set(counts)
    assert {"command.follow", "command.decelerate", "command.let_go", "clock.restarts"} <= set(counts)


@given(st.integers(10**6, 10**9))
def test_no_other_storm_either(seed: int) -> None:
    Storm(seed).run(60)


def _by_data_time(self: ControlClock, ros_ns: int, steady_ns: int, moving: bool) -> Elapsed | None:
    assert self._commanded is not None or not moving
    data_s = (ros_ns - self._commanded[0]) / 1e9 if self._commanded and moving else 0.02
    return Elapsed(data_s, data_s) if 0 <= data_s <= 0.07 else None


def _starts_inside(self: Motion, state: Any, target: Any) -> bool:
    started = _START(self, state, target)
    if started and self._values is not None:
        column = self._columns[0]
        self._values = (min(max(self._values[0], column.low), column.high), *self._values[1:])
    return started


_START = Motion.start
BROKEN: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "data time": (ControlClock, "elapsed", _by_data_time),
    "a start at the edge": (Motion, "start", _starts_inside),
    "no letting go": (Motion, "tracking_error", lambda self, values, state: False),
    "the shorter numbers": (motion, "numbers", lambda form, q, near: numbers(form, q, (0.0, 0.0, 0.0, 1.0))),
    "no memory of speed": (motion, "At", lambda position, velocity, behind: At(position, 0.0, behind)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_storms_find_a_gate_that_is_broken(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: one thing is undone in the gate, and the judge sees it within some sequences."""
    owner, name, broken = BROKEN[what]
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(AssertionError):
        for seed in range(400):
            Storm(seed).run()
