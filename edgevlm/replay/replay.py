"""A recording through the loop that runs on the robot: matching, mailbox, worker. One thread; time is the recording's.

What differs from a robot: frames wait for their partners and their state as long as the recording has them, and
nothing is refused for its age.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from edgevlm.data.base import Event, FrameEvent, InstructionEvent
from edgevlm.errors import ContractError
from edgevlm.loop.mailbox import Mailbox
from edgevlm.loop.matching import Matched, Matcher, MatchSpec, merge
from edgevlm.loop.worker import Acting, Clocks, Hooks, Outcome, Worker
from edgevlm.manifest.contract import LONGEST_S, SECOND_NS, Contract

_CATCH_UP = 256  # events that are taken late before the models get their turn anyway
_VERDICTS = ("late", "old", "future", "unmatched")
_NORMALIZING = ("mean", "std", "scale", "offset", "examples")  # inside a model, or only an offer to people


class Pace(Protocol):
    """Decides when a recorded instant is now. Log times in nanoseconds."""

    def now_ns(self) -> int:
        """The log time that is now."""

    def until(self, log_ns: int) -> None:
        """Let it become this time, if it is earlier."""

    def has_time_before(self, log_ns: int) -> bool:
        """Whether models may work before this time."""


class AsFastAsPossible:
    """Time stands still while models work."""

    def __init__(self) -> None:
        self._now_ns = 0

    def now_ns(self) -> int:
        return self._now_ns

    def until(self, log_ns: int) -> None:
        self._now_ns = max(self._now_ns, log_ns)

    def has_time_before(self, log_ns: int) -> bool:
        return True


class RealTime:
    """Time goes on while models work; it starts at `first_ns` with the first call."""

    def __init__(
        self,
        first_ns: int,
        clock: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock, self._sleep, self._first_ns = clock, sleep, first_ns
        self._began_ns: int | None = None

    def now_ns(self) -> int:
        if self._began_ns is None:
            self._began_ns = self._clock()
        return self._first_ns + self._clock() - self._began_ns

    def until(self, log_ns: int) -> None:
        while (left_ns := log_ns - self.now_ns()) > 0:
            self._sleep(left_ns / SECOND_NS)

    def has_time_before(self, log_ns: int) -> bool:
        return self.now_ns() < log_ns


def replay_spec(contract: Contract, *, wait_for_state: bool = True) -> MatchSpec:
    """The matching of a replay: the tolerances that `read_log` has."""
    return MatchSpec(
        tolerance_s=contract.window.tolerance_s,
        state_tolerance_s=contract.window.reset_after_s,
        max_age_s=LONGEST_S,
        wait_s=contract.window.reset_after_s,
        wait_for_state=wait_for_state,
        future_s=LONGEST_S,
        reset_after_s=contract.window.reset_after_s,
    )


@dataclass(frozen=True)
class Turn:
    """What a lane's model did with one observation; the counts are those of InferenceStats."""

    lane: str
    outcome: Outcome
    counts: Mapping[str, int]


class Lane:
    """One model with the loop before it."""

    def __init__(self, name: str, session: Acting, contract: Contract, spec: MatchSpec, clocks: Clocks) -> None:
        self.name = name
        self.received = 0
        self._cameras = [camera.name for camera in contract.cameras]
        self._clocks = clocks
        self._instruction: str | None = None
        self._needs_state = contract.state is not None
        self.matcher = Matcher(self._cameras, spec, needs_state=self._needs_state)
        self.mailbox: Mailbox[Matched] = Mailbox(merge)
        self._waiting = False
        hooks = Hooks(publish=lambda outcome: None, beat=lambda stamp_ns: None, instruction=lambda: self._instruction)
        self.worker = Worker(session, self.mailbox, hooks, clocks, poll_s=0.0)

    def feed(self, event: Event) -> None:
        """Take an event."""
        now_ros_ns, now_steady_ns = self._clocks.ros(), self._clocks.steady()
        if isinstance(event, InstructionEvent):
            self._instruction = event.text if event.text and event.text.strip() else None  # empty: the robot is to idle
            return
        if isinstance(event, FrameEvent):
            self.received += 1
            self.matcher.add_frame(event.camera, event.frame, now_ros_ns, now_steady_ns)
        else:
            self.matcher.add_state(event.state, now_ros_ns)
        self.match()

    def match(self) -> None:
        """Look for an observation; also to be called when a frame has waited long enough."""
        matched = self.matcher.match(self._clocks.ros(), self._clocks.steady())
        if matched is not None:
            self.mailbox.put(matched)
            self._waiting = True

    def turn(self) -> Turn | None:
        """Let the model work if there is an observation and an instruction."""
        if not self._waiting:
            return None
        self._waiting = False
        outcome = self.worker.turn()
        return None if outcome is None else Turn(self.name, outcome, self.counts())

    def why_idle(self) -> str:
        """What a lane that never acted was waiting for."""
        counts = self.matcher.counts
        silent = [name for name in self._cameras if not counts[f"{name}.taken"]]
        if not self.received:
            return "no camera has a frame that can be used"
        if silent:
            return f"camera(s) {silent} have no frame that can be used"
        if self._needs_state and not counts["state.taken"]:
            return "no message completes the state: a field is never there, or not finite"
        if self.worker.counts["idle"]:
            return "no instruction is in force when frames come; check that one comes before them"
        if not counts["matched"]:
            others = "a state before it" if self._needs_state else "one of every other camera"
            return (
                f"none of {counts[f'{self._cameras[0]}.taken']} frames of camera {self._cameras[0]!r} has {others} "
                "within the contract's tolerance; compare the stamps of the topics"
            )
        return "the recording ends before a frame could be acted on"

    def counts(self) -> dict[str, int]:
        """The five counts of InferenceStats."""
        dropped = sum(self.matcher.counts[f"{name}.{why}"] for name in self._cameras for why in _VERDICTS)
        return {
            "frames_received": self.received,
            "frames_dropped": dropped,
            "observations_dropped": self.mailbox.drops,
            "acted": self.worker.counts["acted"],
            "failed": self.worker.counts["act_failed"],
        }


class Replay:
    """Feeds a recording's events to one or more models.

    Args:
        sessions: lane name -> what acts.
        spec: what belongs together; None: `replay_spec`.
        stamps_are_time: the lead camera's stamps are the data time, not the log times.
    """

    def __init__(
        self,
        contract: Contract,
        sessions: Mapping[str, Acting],
        pace: Pace,
        *,
        spec: MatchSpec | None = None,
        stamps_are_time: bool = False,
    ) -> None:
        self._pace, self._lead = pace, contract.cameras[0].name
        self._stamps_are_time = stamps_are_time
        self._ahead_ns = 0  # of the data time, compared with the log time
        clocks = Clocks(ros=lambda: pace.now_ns() + self._ahead_ns, steady=pace.now_ns)
        spec = spec or replay_spec(contract)
        self.lanes = [Lane(name, session, contract, spec, clocks) for name, session in sessions.items()]

    def run(self, events: Iterable[Event], progress: Callable[[], None] = lambda: None) -> Iterator[Turn]:
        """What the models did, in order; `progress` is called after each event."""
        fed = 0
        for event in events:
            if self._pace.has_time_before(event.log_ns) or fed >= _CATCH_UP:
                yield from self._turns()
                fed = 0
            yield from self._wake(event.log_ns)
            self._pace.until(event.log_ns)
            if self._stamps_are_time and isinstance(event, FrameEvent) and event.camera == self._lead:
                self._ahead_ns = event.frame.stamp_ns - event.log_ns
            for lane in self.lanes:
                lane.feed(event)
            fed += 1
            progress()
        yield from self._turns()
        yield from self._wake(None)

    def _turns(self) -> Iterator[Turn]:
        for lane in self.lanes:
            turn = lane.turn()
            if turn is not None:
                yield turn

    def _wake(self, before_ns: int | None) -> Iterator[Turn]:
        """Let frames that have waited long enough go on alone; None: to the end."""
        while waits := [lane.matcher.wake_steady_ns for lane in self.lanes if lane.matcher.wake_steady_ns is not None]:
            if before_ns is not None and min(waits) > before_ns:
                return
            self._pace.until(min(waits))
            for lane in self.lanes:
                lane.match()
            yield from self._turns()


def check_same(one: Contract, other: Contract) -> None:
    """Refuse to compare models whose inputs or outputs differ. What only normalises inside a model may.

    Raises:
        ContractError: the first field that differs.
    """
    difference = _difference(one.model_dump(mode="json"), other.model_dump(mode="json"), "")
    if difference is not None:
        where, left, right = difference
        raise ContractError(
            f"the contracts of the two bundles differ at {where}: {left!r:.80} and {right!r:.80}; "
            "compare bundles for the same robot"
        )


def _difference(one: Any, other: Any, where: str) -> tuple[str, Any, Any] | None:
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(f"{where}.{key}".lstrip("."), one[key], other[key]) for key in one if key not in _NORMALIZING]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(f"{where}[{i}]", one[i], other[i]) for i in range(len(one))]
    else:
        return None if one == other else (where, one, other)
    return next((difference for part, left, right in pairs if (difference := _difference(left, right, part))), None)
