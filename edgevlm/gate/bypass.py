"""What a robot without a safety gate would be told: for showing what the gate prevents, never for a robot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import SessionError, StampError
from edgevlm.gate.admission import Refusal
from edgevlm.gate.chunking import Executor, row_at
from edgevlm.gate.columns import Column, columns
from edgevlm.gate.gate import GateCommand
from edgevlm.gate.limits import Cause, GateLimits
from edgevlm.manifest.contract import SECOND_NS, ActionChunk, Contract, Stamped


class Bypass:
    """The verbs of `Gate` without its limits: rows of the newest chunk as they came, the last one for ever.

    NaN is passed on, and deadlines and rivals are ignored. An emergency stop stops here, too, until `rearm`. Only what
    cannot be sent at all is refused: a chunk with other columns. The executor is told what came, so that whoever asks
    it what it wants gets an answer; its commands are not used.

    Raises:
        ContractError: the limits do not fit the contract.
    """

    def __init__(self, contract: Contract, limits: GateLimits, executor: Executor) -> None:
        self.columns: tuple[Column, ...] = columns(contract, limits)
        self.counts: Counter[str] = Counter()
        self._names = contract.action.names
        self._executor = executor
        self._valid_ns = round(limits.command_valid_s * SECOND_NS)
        self._state: NDArray[np.float32] | None = None
        self._chunk: ActionChunk | None = None
        self._number = 0
        self._finished = self._estop = self._estop_latched = False

    def feed(self, chunk: ActionChunk, now_ros_ns: int, now_steady_ns: int) -> Refusal | None:
        """Take any chunk that has the contract's columns."""
        if tuple(chunk.names) != self._names or chunk.values.ndim != 2 or not len(chunk.values):
            self.counts["chunk.names"] += 1
            return Refusal("names", f"chunk: expected the columns {self._names}, got {tuple(chunk.names)}")
        self._offer(chunk, now_ros_ns)
        self._chunk = chunk
        self.counts["chunk.accepted"] += 1
        return None

    def feed_state(
        self, state: Stamped[NDArray[np.float32]], now_ros_ns: int, now_steady_ns: int | None = None
    ) -> Refusal | None:
        """Take any state; columns relative to the observation need one."""
        self._state = state.value
        self.counts["state.accepted"] += 1
        return None

    def heartbeat(self, now_ros_ns: int, now_steady_ns: int, observing_ns: int | None = None) -> None:
        """Passed to the executor."""
        if observing_ns is None:
            return
        try:
            self._executor.observed(observing_ns, now_ros_ns)
        except StampError:  # the clock restarted
            self._executor.reset()

    def estop(self, pressed: bool) -> None:
        """As `Gate.estop`."""
        self._estop = pressed
        self._estop_latched |= pressed

    def conflict(self, topics: Collection[str]) -> None:
        """Ignored."""

    def finish(self) -> None:
        """Nothing but the stop signal any more."""
        self._finished = True

    @property
    def at_rest(self) -> bool:
        """Whether it only sends the stop signal."""
        return self._finished

    def rearm(self) -> bool:
        """As `Gate.rearm`."""
        self._estop_latched = self._estop
        return not self._estop

    def command(self, now_ros_ns: int, now_steady_ns: int) -> GateCommand:
        """The row for this stamp, or the chunk's first or last; nothing only before the first chunk."""
        self._number += 1
        until_ns = now_ros_ns + self._valid_ns
        if self._estop_latched or self._finished:
            self.counts["command.stop"] += 1
            cause: Cause = "estop" if self._estop_latched else "deactivated"
            return GateCommand(self._number, now_ros_ns, until_ns, "stop", None, cause, now_ros_ns)
        if self._chunk is None:
            self.counts["command.hold"] += 1
            return GateCommand(self._number, now_ros_ns, until_ns, "hold", None, "chunk_missing", now_ros_ns)
        self.counts["command.follow"] += 1
        row = min(max(row_at(self._chunk, now_ros_ns), 0), len(self._chunk.values) - 1)
        return GateCommand(
            number=self._number,
            stamp_ns=now_ros_ns,
            valid_until_ns=until_ns,
            mode="follow",
            values=self._values(self._chunk.values[row]),
            observed_ns=self._chunk.observed_ns,
            sequence=self._chunk.sequence,
            row=row,
        )

    def _offer(self, chunk: ActionChunk, now_ns: int) -> None:
        try:
            self._executor.offer(chunk, now_ns)
        except StampError:  # the clock restarted
            self._executor.reset()
        except SessionError:
            self.counts["chunk.unannounced"] += 1

    def _values(self, row: NDArray[np.float32]) -> tuple[float, ...]:
        values = []
        for number, column in zip(row.tolist(), self.columns, strict=True):
            value = number / column.divide_s
            if column.relative and column.state is not None and self._state is not None:
                value += float(self._state[column.state])
            values.append(value)
        return tuple(values)
