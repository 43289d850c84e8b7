"""Frames of several cameras and the state, each with its own stamp -> one observation. No thread, no clock.

The rule is the one that recordings are read by: each frame of the lead camera (the first) with the nearest frame of
every other camera within the tolerance, and the newest state at or before it. What a recording knows at once has to
be waited for here: until every other camera has a frame at or after the lead's stamp, or `wait_s` is over.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgevlm.clock import DataClock
from edgevlm.errors import ContractError
from edgevlm.manifest.contract import SECOND_NS, Duration, Observation, Spec, Stamped, check_stamp
from edgevlm.temporal import nearest, newest_until

Frame = Stamped[NDArray[np.uint8]]
State = Stamped[NDArray[np.float32]]

PASSED_KEPT = 64  # frames that a busy model may have to catch up on
_KEPT = 64  # frames of one camera that wait for their partners, and differences a median is taken of
_STATES_KEPT = 512


class MatchSpec(Spec):
    """What belongs together.

    Attributes:
        tolerance_s: between the stamps of an observation's frames.
        state_tolerance_s: how much older than the lead frame the state may be.
        max_age_s: between a stamp and the clock, on arrival and when matched.
        wait_s: how long a lead frame waits for a better partner, in steady time.
        wait_for_state: also wait for a state stamped at or after the frame: the newest one before it is then certain.
        future_s: how far a stamp may lie ahead of the clock.
        reset_after_s: a clock that jumps back by more has restarted.
    """

    tolerance_s: Duration
    state_tolerance_s: Duration
    max_age_s: Duration
    wait_s: float = Field(ge=0, le=1e6)
    wait_for_state: bool = False
    future_s: Duration
    reset_after_s: Duration


@dataclass(frozen=True)
class Matched:
    """Frames and state that belong together; `passed` are frames (camera, frame) nobody acted on, oldest first."""

    frames: Mapping[str, Frame]
    state: State | None
    passed: tuple[tuple[str, Frame], ...] = ()

    def observation(self, instruction: str) -> Observation:
        """What a policy takes."""
        return Observation(frames=self.frames, state=self.state, instruction=instruction)


def merge(missed: Matched, newer: Matched) -> Matched:
    """The newer match, with the frames of one that nobody acted on; a `Mailbox` of matches merges with this."""
    unused = [(name, frame) for name, frame in missed.frames.items() if frame.stamp_ns != newer.frames[name].stamp_ns]
    passed = (*missed.passed, *unused, *newer.passed)
    return Matched(newer.frames, newer.state, passed[-PASSED_KEPT:])


@dataclass
class _Waiting:
    frame: Frame
    arrived_steady_ns: int
    dropped: bool = False


class Matcher:
    """Not thread-safe. Call `match` after every frame, and again at `wake_steady_ns`.

    Attributes:
        counts: "<source>.taken", ".late" (out of order), ".old", ".future"; "<camera>.unmatched"; "skipped" lead
            frames, for newer ones; "matched"; "restarts" of the clock.
    """

    def __init__(self, cameras: Sequence[str], spec: MatchSpec, *, needs_state: bool) -> None:
        if not cameras or len(set(cameras)) != len(cameras):
            raise ContractError(f"matching: expected distinct cameras, the lead first, got {list(cameras)}")
        self._lead, self._spec, self._needs_state = cameras[0], spec, needs_state
        self._waiting: dict[str, list[_Waiting]] = {name: [] for name in cameras}
        self._differences: dict[str, deque[int]] = {name: deque(maxlen=_KEPT) for name in cameras}
        self._lags: dict[str, deque[int]] = {name: deque(maxlen=_KEPT) for name in (*cameras, "state")}
        self.counts: Counter[str] = Counter()
        self._clock = DataClock(round(spec.reset_after_s * SECOND_NS))
        self.wake_steady_ns: int | None = None
        self.reset()

    def reset(self) -> None:
        """Forget frames, states and which stamps have been; what was counted and estimated stays."""
        for waiting in self._waiting.values():
            waiting.clear()
        self._states: list[State] = []
        self._state_stamps_ns: list[int] = []
        self._newest_ns: dict[str, int] = {}
        self._acted_ns: dict[str, int] = {}
        self.wake_steady_ns = None

    def add_frame(self, camera: str, frame: Frame, now_ros_ns: int, now_steady_ns: int) -> bool:
        """Take a frame; False when its stamp is out of order or far off, which is counted.

        Raises:
            ContractError: no such camera.
            StampError: the stamp is not a whole number.
        """
        if camera not in self._waiting:
            raise ContractError(f"matching: no camera {camera!r}, there are {list(self._waiting)}")
        if not self._admit(camera, frame.stamp_ns, now_ros_ns):
            return False
        waiting = self._waiting[camera]
        waiting.append(_Waiting(frame, now_steady_ns))
        while len(waiting) > _KEPT:
            self._give_up(camera, waiting.pop(0))
        return True

    def add_state(self, state: State, now_ros_ns: int) -> bool:
        """Take a state; False when its stamp is out of order or far off. Raises StampError as `add_frame`."""
        if not self._admit("state", state.stamp_ns, now_ros_ns):
            return False
        self._states.append(state)
        self._state_stamps_ns.append(state.stamp_ns)
        if len(self._states) > 2 * _STATES_KEPT:
            del self._states[:_STATES_KEPT], self._state_stamps_ns[:_STATES_KEPT]
        return True

    def match(self, now_ros_ns: int, now_steady_ns: int) -> Matched | None:
        """The newest observation there is to act on, each lead frame at most once; None: wait for more."""
        self._read(now_ros_ns)
        oldest_ns = now_ros_ns - round(self._spec.max_age_s * SECOND_NS)
        leads = self._waiting[self._lead]
        for name, waiting in self._waiting.items():
            while waiting and waiting[0].frame.stamp_ns < oldest_ns:
                self._give_up(name, waiting.pop(0))
        self.wake_steady_ns = None
        for lead in reversed(leads):
            over_ns = lead.arrived_steady_ns + round(self._spec.wait_s * SECOND_NS)
            if now_steady_ns < over_ns and not self._decided(lead.frame.stamp_ns):
                self.wake_steady_ns = over_ns
                continue
            match = self._partners(lead.frame)
            if match is not None:
                return self._emit(match)
            if now_steady_ns >= over_ns:
                self._give_up(self._lead, lead)
        return None

    def skew_ns(self, camera: str) -> int | None:
        """How much later than the lead's this camera's frames are stamped: the median over recent matches."""
        return _median(self._differences[camera])

    def lag_ns(self, source: str) -> int | None:
        """Clock minus stamp on arrival, of a camera or of "state": the median over recent values."""
        return _median(self._lags[source])

    def _admit(self, source: str, stamp_ns: int, now_ros_ns: int) -> bool:
        stamp_ns = check_stamp(source, stamp_ns)
        self._read(now_ros_ns)
        newest_ns = self._newest_ns.get(source)
        age_ns = now_ros_ns - stamp_ns
        if age_ns < -round(self._spec.future_s * SECOND_NS):
            verdict = "future"
        elif age_ns > round(self._spec.max_age_s * SECOND_NS):
            verdict = "old"
        elif newest_ns is not None and stamp_ns <= newest_ns:
            verdict = "late"
        else:
            verdict = "taken"
            self._newest_ns[source] = stamp_ns
            self._lags[source].append(age_ns)
        self.counts[f"{source}.{verdict}"] += 1
        return verdict == "taken"

    def _read(self, now_ros_ns: int) -> None:
        if self._clock.read(now_ros_ns):
            self.counts["restarts"] += 1
            self.reset()

    def _decided(self, stamp_ns: int) -> bool:
        """Whether no later arrival can be a better partner for this stamp."""
        cameras = all(self._newest_ns.get(name, -1) >= stamp_ns for name in self._waiting)
        state = not self._needs_state or not self._spec.wait_for_state or self._newest_ns.get("state", -1) >= stamp_ns
        return cameras and state and (not self._needs_state or self._state_at(stamp_ns) is not None)

    def _partners(self, lead: Frame) -> Matched | None:
        frames = {self._lead: lead}
        for name, waiting in self._waiting.items():
            if name != self._lead and waiting:
                frames[name] = waiting[nearest([each.frame.stamp_ns for each in waiting], lead.stamp_ns)].frame
        stamps = [frame.stamp_ns for frame in frames.values()]
        too_far = max(stamps) - min(stamps) > round(self._spec.tolerance_s * SECOND_NS)
        state = self._state_at(lead.stamp_ns)
        if len(frames) < len(self._waiting) or too_far or (self._needs_state and state is None):
            return None
        return Matched({name: frames[name] for name in self._waiting}, state)

    def _state_at(self, stamp_ns: int) -> State | None:
        index = newest_until(self._state_stamps_ns, stamp_ns, round(self._spec.state_tolerance_s * SECOND_NS))
        return None if index is None else self._states[index]

    def _emit(self, match: Matched) -> Matched:
        passed: list[tuple[str, Frame]] = []
        for name, waiting in self._waiting.items():
            chosen = match.frames[name]
            before = [w.frame for w in waiting if w.frame.stamp_ns < chosen.stamp_ns]
            if name == self._lead:
                self.counts["skipped"] += sum(not w.dropped for w in waiting[: len(before)])
            passed += [(name, frame) for frame in before if frame.stamp_ns != self._acted_ns.get(name)]
            # The lead's frame is used once; another camera's may be the nearest of the next lead frame too.
            del waiting[: len(before) + (name == self._lead)]
            self._differences[name].append(chosen.stamp_ns - match.frames[self._lead].stamp_ns)
        self._acted_ns = {name: frame.stamp_ns for name, frame in match.frames.items()}
        self.counts["matched"] += 1
        passed.sort(key=lambda item: item[1].stamp_ns)
        return Matched(match.frames, match.state, tuple(passed[-PASSED_KEPT:]))

    def _give_up(self, camera: str, waiting: _Waiting) -> None:
        if not waiting.dropped and waiting.frame.stamp_ns != self._acted_ns.get(camera):
            waiting.dropped = True
            self.counts[f"{camera}.unmatched"] += 1


def _median(values: deque[int]) -> int | None:
    return round(median(values)) if values else None
