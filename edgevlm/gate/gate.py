"""The safety gate: chunks, states and heartbeats in, one command per period out. No clock, no thread, no ROS.

Stamps are data time (ROS time on a robot), deadlines steady time; both enter as arguments. Limits hold in steady time,
whatever data time does; in a simulation in its own time, however fast or slow that runs (`edgevlm.clock`).
No position is ever commanded that is further than `tracking` from the newest measured one: a robot that was pushed away
is let go, and followed again from where it stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgevlm.clock import ClockRules, ControlClock, Elapsed, even
from edgevlm.errors import SessionError
from edgevlm.gate.admission import ChunkCheck, Refusal, States
from edgevlm.gate.chunking import Averaging, Command, Executor, NoCommand
from edgevlm.gate.columns import Column, columns, geometry, orientations
from edgevlm.gate.limits import SEVERITY, Cause, Fallback, GateLimits
from edgevlm.gate.motion import Motion, Step
from edgevlm.manifest.contract import SECOND_NS, ActionChunk, Contract, Stamped

_CHUNKS_KEPT = 1024
_SPENT: dict[str, Cause] = {
    "no_chunk": "chunk_missing",
    "early": "chunk_early",
    "spent": "chunk_spent",
    "expired": "chunk_expired",
}


@dataclass(frozen=True)
class GateCommand:
    """What to send now. `values` (A,) are in the order and units of `Gate.columns`; None means: send nothing.

    Attributes:
        number: counts commands; the same number again is the same command, and need not be sent twice.
        valid_until_ns: nobody may act on the values after this.
        cause, since_ns: why the gate does not follow the chunks, and since when.
        limited: names of the columns that limits changed.
        observed_ns, sequence, row: of the chunk that is followed.
    """

    number: int
    stamp_ns: int
    valid_until_ns: int
    mode: Literal["follow", "hold", "decelerate", "stop"]
    values: tuple[float, ...] | None
    cause: Cause | None = None
    since_ns: int | None = None
    limited: tuple[str, ...] = ()
    observed_ns: int | None = None
    sequence: int | None = None
    row: int | None = None

    @property
    def stop(self) -> bool:
        """Whether the stop signal is up."""
        return self.mode == "stop"


@dataclass
class _Episode:
    """One time of not following, from the first cause to recovery."""

    cause: Cause
    mode: Fallback
    since_ns: int
    bad_until_steady_ns: int
    accepted: int  # chunks accepted before it began
    latched: bool = False


class Gate:
    """Decides what a robot is told. One thread; call `command` every `command_period_s`.

    Raises:
        ContractError: the limits do not fit the contract.

    Attributes:
        columns: name, unit and form of every value of a command.
        counts: accepted and refused inputs by reason, commands by mode, fallbacks by cause, changes by column.
    """

    def __init__(self, contract: Contract, limits: GateLimits, executor: Executor) -> None:
        self.columns: tuple[Column, ...] = columns(contract, limits)
        turning = orientations(contract, limits)
        self.counts: Counter[str] = Counter()
        self._limits, self._executor = limits, executor
        self._states = States(contract, limits, self.columns, turning)
        self._check = ChunkCheck(contract, limits, self.columns, turning)
        self._motion = Motion(self.columns, turning, limits.command_valid_s)
        if isinstance(executor, Averaging):
            executor.set_geometry(geometry(self.columns, turning))
        self._step_ns = round(contract.action.step_s * SECOND_NS)
        self._valid_ns = round(limits.command_valid_s * SECOND_NS)
        self._deadline_ns = round(limits.deadline_s * SECOND_NS)
        self._clock = ControlClock(_clock_rules(limits))
        self._last: GateCommand | None = None
        self._steady_ns = self._sensed_ns = 0  # of the last command; of the newest state, in the time of motions
        self._sent_ns: int | None = None  # when values were last sent, data time and steady time
        self._sent_steady_ns = 0
        self._heartbeat_steady_ns: int | None = None
        self._chunk_until_steady_ns: int | None = None  # how long the last chunk may stay the newest
        self._until_ns: dict[int, int] = {}  # observed_ns -> valid_until_ns of the last accepted chunks
        self._accepted = 0
        self._chunk_broken = False
        self._estop = self._estop_pending = False
        self._rivals: tuple[str, ...] = ()
        self._finishing = False
        self._episode: _Episode | None = None

    def feed(self, chunk: ActionChunk, now_ros_ns: int, now_steady_ns: int) -> Refusal | None:
        """Take a chunk whole, or refuse it whole; None when it was taken."""
        now_ns = self._tick(now_ros_ns)
        checked = self._check(chunk, self._states, now_ns)
        if isinstance(checked, Refusal):
            self._chunk_broken |= checked.reason == "not_finite"
            return self._count("chunk", checked)
        try:
            taken = self._executor.offer(checked, now_ns)
        except SessionError as error:
            return self._count("chunk", Refusal("unannounced", str(error)))
        if not taken:
            late = Refusal("late", f"chunk {chunk.sequence}: older than the one in use, or used up")
            return self._count("chunk", late)
        self._until_ns[checked.observed_ns] = checked.valid_until_ns
        if len(self._until_ns) > _CHUNKS_KEPT:
            del self._until_ns[next(iter(self._until_ns))]
        self._accepted += 1
        self._chunk_broken = False
        full_chunk = self._limits.chunk_deadline == "whole_chunk"
        lasts_ns = max(0, checked.valid_until_ns - now_ns) if full_chunk else self._deadline_ns
        self._chunk_until_steady_ns = now_steady_ns + lasts_ns
        return self._count("chunk", None)

    def feed_state(
        self, state: Stamped[NDArray[np.float32]], now_ros_ns: int, now_steady_ns: int | None = None
    ) -> Refusal | None:
        """Take a measured state in the contract's order and units; None when it was taken.

        Without `now_steady_ns` it came at the last command, so it is taken for older than it is.
        """
        refusal = self._states.feed(state, self._tick(now_ros_ns))
        if refusal is None:
            steady_ns = self._steady_ns if now_steady_ns is None else now_steady_ns
            self._sensed_ns = self._clock.sensed_ns(state.stamp_ns, now_ros_ns, steady_ns)
        return self._count("state", refusal)

    def heartbeat(self, now_ros_ns: int, now_steady_ns: int, observing_ns: int | None = None) -> None:
        """The policy lives; `observing_ns` is the stamp of an observation its model was given now."""
        now_ns = self._tick(now_ros_ns)
        self._heartbeat_steady_ns = now_steady_ns
        if observing_ns is not None:
            self._executor.observed(observing_ns, now_ns)

    def estop(self, pressed: bool) -> None:
        """The emergency stop was pressed or released; after a release `rearm` is needed."""
        self._estop = pressed
        self._estop_pending |= pressed

    def conflict(self, topics: Collection[str]) -> None:
        """Topics that somebody else publishes too, or that two publishers feed; none when that is over."""
        self._rivals = tuple(topics)

    def finish(self) -> None:
        """Follow no chunk any more: commands to come bring the robot to rest, as the fallback of `deactivated` says."""
        self._finishing = True

    @property
    def at_rest(self) -> bool:
        """Whether the last command leaves the robot at rest, or nothing is commanded."""
        return self._motion.values is None or self._motion.at_rest

    def rearm(self) -> bool:
        """End latched causes that are over; False when the emergency stop is still pressed."""
        if self._estop:
            return False
        if self._episode is not None:
            self._episode.latched = False
            self._episode.accepted = self._accepted
        return True

    def command(self, now_ros_ns: int, now_steady_ns: int) -> GateCommand:
        """What to send now. Called sooner than a tenth of the period after the last one, it is the same again."""
        now_ns = self._tick(now_ros_ns)
        elapsed = self._elapsed(now_ros_ns, now_steady_ns)
        self._steady_ns = now_steady_ns
        cause = self._cause(now_ns, now_steady_ns)
        if cause is not None:
            self._fall_back(cause, now_ns, now_steady_ns)
        if max(elapsed) < self._limits.command_period_s / 10 and self._last is not None:
            stopping = self._episode is not None and self._episode.mode == "stop"
            if self._last.stop or not stopping:
                return self._last
        followed = self._follow(now_ns, now_steady_ns, elapsed) if self._may_follow(now_ns, now_steady_ns) else None
        self._last = followed or self._fallback_command(now_ros_ns, elapsed)
        self._clock.commanded(now_ros_ns, now_steady_ns)
        self._estop_pending = False
        if self._last.values is not None:
            self._sent_ns, self._sent_steady_ns = now_ros_ns, now_steady_ns
        self.counts[f"command.{self._last.mode}"] += 1
        return self._last

    def _tick(self, now_ros_ns: int) -> int:
        """Data time that never goes back; a clock that restarted resets what was seen, never what was commanded."""
        if self._clock.read(now_ros_ns):
            self.counts["clock.restarts"] += 1
            self._executor.reset()
            self._until_ns.clear()
            self._states.reset()
        assert self._clock.now_ns is not None
        return self._clock.now_ns

    def _elapsed(self, now_ros_ns: int, now_steady_ns: int) -> Elapsed:
        """Time since the last command; after a gap that ended its validity the robot is at rest."""
        elapsed = self._clock.elapsed(now_ros_ns, now_steady_ns, moving=self._motion.values is not None)
        if elapsed is None:
            self._motion.release()
            return even(self._limits.command_period_s)
        return elapsed

    def _cause(self, now_ns: int, now_steady_ns: int) -> Cause | None:
        """The gravest thing that is wrong now, apart from what only following can show."""
        if self._estop or self._estop_pending:
            return "estop"
        if self._clock.stopped:
            return "clock_stopped"
        if self._clock.jumped:
            return "clock_jump"
        if self._rivals:
            return "publisher_conflict"
        if (cause := self._states.cause(now_ns)) is not None:
            return cause
        values, state = self._motion.values, self._states.newest
        if values is not None and self._motion.tracking_error(values, state.value if state else None):
            return "tracking"
        if self._finishing:
            return "deactivated"
        beat_ns = self._heartbeat_steady_ns
        if beat_ns is None or now_steady_ns - beat_ns > self._deadline_ns:
            return "heartbeat_missing"
        if self._chunk_broken:
            return "chunk_not_finite"
        until_ns = self._chunk_until_steady_ns
        return "chunk_missing" if until_ns is None or now_steady_ns > until_ns else None

    def _fall_back(self, cause: Cause, now_ns: int, now_steady_ns: int) -> None:
        causes: list[Cause] = [cause, "deactivated"] if self._finishing else [cause]
        mode = max((self._limits.fallbacks[each] for each in causes), key=SEVERITY.__getitem__)
        episode = self._episode
        if episode is None:
            episode = self._episode = _Episode(cause, mode, now_ns, now_steady_ns, self._accepted)
            self.counts[f"fallback.{cause}"] += 1
        elif cause != episode.cause:
            self.counts[f"fallback.{cause}"] += 1
        if not episode.latched or cause == "estop":
            episode.cause = cause
        if SEVERITY[mode] > SEVERITY[episode.mode]:
            episode.mode = mode
        episode.since_ns = min(episode.since_ns, now_ns)  # a clock that restarted
        episode.bad_until_steady_ns = now_steady_ns
        episode.latched |= cause in self._limits.latched

    def _may_follow(self, now_ns: int, now_steady_ns: int) -> bool:
        """Whether nothing is wrong, for long enough, with a chunk that came since, and a stopped robot stands still."""
        episode = self._episode
        if self._motion.values is None and self._sent_ns is not None:
            in_force = 0 <= now_ns - self._sent_ns <= self._valid_ns
            if in_force or now_steady_ns - self._sent_steady_ns <= self._valid_ns:
                return False
        if episode is None:
            return True
        well_ns = now_steady_ns - episode.bad_until_steady_ns
        waited = well_ns > 0 and well_ns >= round(self._limits.recover_after_s * SECOND_NS)
        fresh = self._accepted > episode.accepted or episode.cause == "chunk_early"
        return waited and fresh and not episode.latched

    def _follow(self, now_ns: int, now_steady_ns: int, elapsed: Elapsed) -> GateCommand | None:
        """The command for the row that is due, or None with the cause noted."""
        due = self._executor.command(now_ns)
        if isinstance(due, NoCommand):
            self._fall_back(_SPENT[due.reason], now_ns, now_steady_ns)
            return None
        target = due.values.tolist()
        state = self._measured()
        measured = state.value if state else None
        moved_ns = self._clock.motion_ns(now_ns, now_steady_ns)
        starts = self._motion.values is None
        if starts and not self._motion.start(measured, target):
            self._fall_back("outside_workspace", now_ns, now_steady_ns)
            return None
        step = self._motion.propose(target, state, moved_ns, elapsed, self._remaining(due, now_ns, elapsed.move_s))
        if self._motion.tracking_error(step.values, measured):
            self._fall_back("tracking", now_ns, now_steady_ns)
            if starts:
                self._motion.release()
            return None
        self._motion.commit(step, moved_ns, state.stamp_ns if state else None)
        self._episode = None
        return self._following(due, step, now_ns)

    def _remaining(self, due: Command, now_ns: int, dt: float) -> float:
        """Seconds from the last command to the last one of this row: rows are ramps of whole commands, not jumps."""
        dt_ns = max(1, round(dt * SECOND_NS))
        end_ns = due.observed_ns + due.row * self._step_ns + self._step_ns // 2
        commands = min(end_ns - now_ns + dt_ns, self._step_ns) // dt_ns
        return max(1, commands) * dt

    def _following(self, due: Command, step: Step, now_ns: int) -> GateCommand:
        for i in step.limited:
            self.counts[f"limited.{self.columns[i].name}"] += 1
        return GateCommand(
            number=self._number(),
            stamp_ns=now_ns,
            valid_until_ns=min(now_ns + self._valid_ns, self._until_ns.get(due.observed_ns, now_ns)),
            mode="follow",
            values=step.values,
            limited=tuple(self.columns[i].name for i in step.limited),
            observed_ns=due.observed_ns,
            sequence=due.sequence,
            row=due.row,
        )

    def _fallback_command(self, now_ns: int, elapsed: Elapsed) -> GateCommand:
        episode = self._episode
        assert episode is not None
        values = None
        if episode.mode == "stop":
            self._motion.release()
        elif self._motion.values is not None:
            values = self._brake(now_ns, elapsed)
            if values is None or (episode.mode == "decelerate" and self._motion.at_rest):
                self._motion.release()
        return GateCommand(
            number=self._number(),
            stamp_ns=now_ns,
            valid_until_ns=now_ns + self._valid_ns,
            mode=episode.mode,
            values=values,
            cause=episode.cause,
            since_ns=episode.since_ns,
        )

    def _brake(self, now_ns: int, elapsed: Elapsed) -> tuple[float, ...] | None:
        """The next values on the way to rest; None where they are too far from where the robot is measured."""
        state, moved_ns = self._measured(), self._clock.motion_ns(now_ns, self._steady_ns)
        step = self._motion.propose(None, state, moved_ns, elapsed, 0.0)
        if self._motion.tracking_error(step.values, state.value if state else None):
            self.counts["command.let_go"] += 1
            return None
        self._motion.commit(step, moved_ns, state.stamp_ns if state else None)
        return step.values

    def _measured(self) -> Stamped[tuple[float, ...]] | None:
        """The newest state, stamped in the time in which the robot moves."""
        newest = self._states.newest
        return None if newest is None else Stamped(newest.value, self._sensed_ns)

    def _number(self) -> int:
        return self._last.number + 1 if self._last else 1

    def _count(self, what: str, refusal: Refusal | None) -> Refusal | None:
        self.counts[f"{what}.{refusal.reason if refusal else 'accepted'}"] += 1
        return refusal


def _clock_rules(limits: GateLimits) -> ClockRules:
    return ClockRules(
        source=limits.time,
        period_ns=round(limits.command_period_s * SECOND_NS),
        valid_ns=round(limits.command_valid_s * SECOND_NS),
        deadline_ns=round(limits.deadline_s * SECOND_NS),
        reset_after_ns=round(limits.reset_after_s * SECOND_NS),
        state_age_ns=round(limits.state_max_age_s * SECOND_NS),
    )
