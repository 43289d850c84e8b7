"""command_gate without any limits: the control of a test, which shows that its judge would see what limits prevent.

Sends the row for this stamp, or the chunk's first or last, whatever is in it and for ever. Only what has other columns
is refused, and only an emergency stop stops it. No node of the product can be told to do this.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from edgevlm.gate.admission import Refusal
from edgevlm.gate.chunking import Executor, row_at
from edgevlm.gate.gate import Gate, GateCommand
from edgevlm.gate.limits import Cause, GateLimits
from edgevlm.manifest.contract import SECOND_NS, ActionChunk, Contract
from edgevlm_ros import command_gate


class UnlimitedGate(Gate):
    """See the module."""

    at_rest = True

    def __init__(self, contract: Contract, limits: GateLimits, executor: Executor) -> None:
        super().__init__(contract, limits, executor)
        self._valid_for_ns = round(limits.command_valid_s * SECOND_NS)
        self._chunk: ActionChunk | None = None
        self._sent = 0

    def feed(self, chunk: ActionChunk, now_ros_ns: int, now_steady_ns: int) -> Refusal | None:
        names = tuple(column.name for column in self.columns)
        if tuple(chunk.names) != names or chunk.values.ndim != 2 or not len(chunk.values):
            return Refusal("names", f"chunk: expected the columns {names}, got {tuple(chunk.names)}")
        self._chunk = chunk
        self.counts["chunk.accepted"] += 1
        return None

    def feed_state(self, state: Any, now_ros_ns: int, now_steady_ns: int | None = None) -> None:
        self.counts["state.accepted"] += 1

    def heartbeat(self, now_ros_ns: int, now_steady_ns: int, observing_ns: int | None = None) -> None:
        pass

    def conflict(self, topics: Collection[str]) -> None:
        pass

    def command(self, now_ros_ns: int, now_steady_ns: int) -> GateCommand:
        self._sent += 1
        until_ns = now_ros_ns + self._valid_for_ns
        if self._estop or self._finishing:
            cause: Cause = "estop" if self._estop else "deactivated"
            return GateCommand(self._sent, now_ros_ns, until_ns, "stop", None, cause, now_ros_ns)
        if self._chunk is None:
            return GateCommand(self._sent, now_ros_ns, until_ns, "hold", None, "chunk_missing", now_ros_ns)
        row = min(max(row_at(self._chunk, now_ros_ns), 0), len(self._chunk.values) - 1)
        values = zip(self._chunk.values[row].tolist(), self.columns, strict=True)
        return GateCommand(
            number=self._sent,
            stamp_ns=now_ros_ns,
            valid_until_ns=until_ns,
            mode="follow",
            values=tuple(value / column.divide_s for value, column in values),
            observed_ns=self._chunk.observed_ns,
            sequence=self._chunk.sequence,
            row=row,
        )


if __name__ == "__main__":
    command_gate.Gate = UnlimitedGate  # type: ignore[misc]
    command_gate.main()
