"""Action chunks -> one command per control step. No ROS, no threads, no clock: time enters as `stamp_ns`.

Three executors decide which row is due: `LatestChunk` and `TemporalEnsemble` go by the stamp, `ConsumptionIndexed`
by what the robot really consumed. `RecedingHorizon` wraps one of them and asks for the next chunk early. A command is a
row of a live chunk, or a convex combination of such rows: never padding, never anything after `valid_until_ns`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import SessionError, StampError
from edgevlm.gate.rotation import Geometry, mean_angle, mean_rotation, numbers, quaternion
from edgevlm.manifest.contract import SECOND_NS, ActionChunk


@dataclass(frozen=True)
class Command:
    """One row to execute now: `values` (A,) in the chunk's units, from row `row` of chunk `sequence`."""

    values: NDArray[np.float32]
    stamp_ns: int
    observed_ns: int  # of the newest chunk it comes from: stamp_ns - observed_ns is the command's age
    sequence: int
    row: int


@dataclass(frozen=True)
class NoCommand:
    """Nothing may be executed now, and why: fall back, do not repeat the last command.

    no_chunk: none was offered yet. early: the chunk begins later. spent: its rows are used up. expired: it is too old.
    """

    reason: Literal["no_chunk", "early", "spent", "expired"]
    stamp_ns: int


class Executor(Protocol):
    """What a control loop calls. Stamps are on the data's clock and never go back, over all verbs together.

    Raises:
        StampError: a stamp before an earlier one; `reset` first when the clock restarted.
    """

    def observed(self, observed_ns: int, stamp_ns: int) -> None:
        """An observation stamped `observed_ns` is given to the model now."""

    def offer(self, chunk: ActionChunk, stamp_ns: int) -> bool:
        """Take a chunk that has arrived; False when it came too late to be of use, and was dropped."""

    def command(self, stamp_ns: int) -> Command | NoCommand:
        """What to execute in the control step that starts now."""

    def progress(self, stamp_ns: int) -> int | None:
        """How many rows of the newest chunk lie behind; None when it has none left to give."""

    def wants_chunk(self, stamp_ns: int) -> bool:
        """Whether the next observation should be given to the model now."""

    def reset(self) -> None:
        """Forget chunks and time: a new episode begins."""


@runtime_checkable
class Averaging(Protocol):
    """An executor that averages rows, or holds one that does: it must know which columns are no plain numbers."""

    def set_geometry(self, geometry: Geometry) -> None:
        """Called by the gate before anything else."""


class _Time:
    """Refuses to go back."""

    def __init__(self) -> None:
        self._last_ns: int | None = None

    def check(self, stamp_ns: int) -> None:
        if self._last_ns is not None and stamp_ns < self._last_ns:
            raise StampError(
                f"executor: expected a stamp of at least {self._last_ns} ns, got {stamp_ns} ns; "
                "drop late calls, or reset when the clock restarted"
            )
        self._last_ns = stamp_ns


def row_at(chunk: ActionChunk, stamp_ns: int) -> int:
    """The row whose intended instant is nearest to the stamp; below 0 and from len(values) on there is none."""
    step_ns = round(chunk.step_s * SECOND_NS)
    return (stamp_ns - chunk.observed_ns + step_ns // 2) // step_ns


def _refusal(chunk: ActionChunk | None, row: int, stamp_ns: int) -> NoCommand | None:
    """Why this row of the chunk may not be executed now, or None."""
    if chunk is None:
        return NoCommand("no_chunk", stamp_ns)
    if stamp_ns > chunk.valid_until_ns:
        return NoCommand("expired", stamp_ns)
    if row < 0:
        return NoCommand("early", stamp_ns)
    return NoCommand("spent", stamp_ns) if row >= len(chunk.values) else None


class LatestChunk:
    """The newest chunk wins; its row is the one meant for the stamp.

    Attributes:
        late_chunks: offered chunks that were dropped: older than the one in use, or expired on arrival.
    """

    def __init__(self) -> None:
        self.late_chunks = 0
        self.reset()

    def reset(self) -> None:
        """Forget the chunk and the time."""
        self._time = _Time()
        self._chunk: ActionChunk | None = None

    def observed(self, observed_ns: int, stamp_ns: int) -> None:
        """Rows go by the stamp: nothing to note but the time."""
        self._time.check(stamp_ns)

    def offer(self, chunk: ActionChunk, stamp_ns: int) -> bool:
        """See `Executor`."""
        self._time.check(stamp_ns)
        older = self._chunk is not None and chunk.observed_ns < self._chunk.observed_ns
        if older or stamp_ns > chunk.valid_until_ns:
            self.late_chunks += 1
            return False
        self._chunk = chunk
        return True

    def command(self, stamp_ns: int) -> Command | NoCommand:
        """See `Executor`."""
        self._time.check(stamp_ns)
        row = row_at(self._chunk, stamp_ns) if self._chunk else 0
        if (refusal := _refusal(self._chunk, row, stamp_ns)) or self._chunk is None:
            return refusal or NoCommand("no_chunk", stamp_ns)
        chunk = self._chunk
        return Command(chunk.values[row].copy(), stamp_ns, chunk.observed_ns, chunk.sequence, row)

    def progress(self, stamp_ns: int) -> int | None:
        """See `Executor`."""
        if self._chunk is None or stamp_ns > self._chunk.valid_until_ns:
            return None
        row = row_at(self._chunk, stamp_ns)
        return max(row, 0) if row < len(self._chunk.values) else None

    def wants_chunk(self, stamp_ns: int) -> bool:
        """Only when the chunk has no row left."""
        return self.progress(stamp_ns) is None


class TemporalEnsemble:
    """Temporal ensembling: the mean of all live chunks' rows for the stamp, weighted exp(-decay * i), i = 0 the oldest.

    Orientations are averaged as rotations and joints without ends as angles, once `set_geometry` has named them (the
    gate does); all other columns as numbers. Source: Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation
    with Low-Cost Hardware" (ACT), arXiv:2304.13705, algorithm 2.

    Attributes:
        late_chunks: offered chunks that had expired on arrival, or were as old as one already there.
    """

    def __init__(self, decay: float = 0.01) -> None:
        if not np.isfinite(decay) or decay < 0:
            raise ValueError(f"decay: expected a number from 0 on, got {decay}")
        self._decay = decay
        self._geometry = Geometry()
        self.late_chunks = 0
        self.reset()

    def set_geometry(self, geometry: Geometry) -> None:
        """See `Averaging`."""
        self._geometry = geometry

    def reset(self) -> None:
        """Forget the chunks and the time."""
        self._time = _Time()
        self._chunks: list[ActionChunk] = []  # oldest observation first

    def observed(self, observed_ns: int, stamp_ns: int) -> None:
        """Rows go by the stamp: nothing to note but the time."""
        self._time.check(stamp_ns)

    def offer(self, chunk: ActionChunk, stamp_ns: int) -> bool:
        """See `Executor`; a chunk that overtook an older one does not make the older one useless."""
        self._time.check(stamp_ns)
        same = any(known.observed_ns == chunk.observed_ns for known in self._chunks)
        if same or stamp_ns > chunk.valid_until_ns:
            self.late_chunks += 1
            return False
        self._chunks = sorted([*self._live(stamp_ns), chunk], key=lambda known: known.observed_ns)
        return True

    def command(self, stamp_ns: int) -> Command | NoCommand:
        """See `Executor`; `row`, `sequence` and `observed_ns` are those of the newest chunk that took part."""
        self._time.check(stamp_ns)
        rows = [(chunk, row_at(chunk, stamp_ns)) for chunk in self._live(stamp_ns)]
        usable = [(chunk, row) for chunk, row in rows if 0 <= row < len(chunk.values)]
        if not usable:
            newest = self._chunks[-1] if self._chunks else None
            row = row_at(newest, stamp_ns) if newest else 0
            return _refusal(newest, row, stamp_ns) or NoCommand("spent", stamp_ns)
        weights = np.exp(-self._decay * np.arange(len(usable)))
        stacked = np.stack([chunk.values[row] for chunk, row in usable]).astype(np.float64)  # (n, A)
        chunk, row = usable[-1]
        values = _mean(stacked, weights, self._geometry)
        return Command(values.astype(np.float32), stamp_ns, chunk.observed_ns, chunk.sequence, row)

    def progress(self, stamp_ns: int) -> int | None:
        """See `Executor`."""
        live = self._live(stamp_ns)
        if not live:
            return None
        row = row_at(live[-1], stamp_ns)
        return max(row, 0) if row < len(live[-1].values) else None

    def wants_chunk(self, stamp_ns: int) -> bool:
        """Always: each observation adds a chunk to the mean."""
        return True

    def _live(self, stamp_ns: int) -> list[ActionChunk]:
        return [chunk for chunk in self._chunks if stamp_ns <= chunk.valid_until_ns]


def _mean(rows: NDArray[np.float64], weights: NDArray[np.float64], geometry: Geometry) -> NDArray[np.float64]:
    """The weighted mean of rows (N, A), the newest last, each column as what it is; equal rows are their own mean."""
    values: NDArray[np.float64] = (weights / weights.sum()) @ rows
    values = np.clip(values, rows.min(axis=0), rows.max(axis=0))  # rounding must not leave the hull
    for column, period in geometry.periods:
        values[column] = mean_angle(rows[:, column], weights, period)
    for form, columns in geometry.rotations:
        parts = rows[:, list(columns)]
        if (parts == parts[-1]).all():
            values[list(columns)] = parts[-1]
            continue
        quaternions = np.array([quaternion(form, part) for part in parts.tolist()])
        x, y, z, w = mean_rotation(quaternions, weights).tolist()
        newest = quaternion(form, parts[-1].tolist())
        values[list(columns)] = numbers(form, (x, y, z, w), newest)
    return values


class ConsumptionIndexed:
    """Real-time chunking: the next chunk goes on where the robot really is, counted in rows consumed.

    `observed` notes how many rows were consumed when the model was asked; when its chunk arrives, it starts after as
    many rows as were consumed since. Time in which nothing was executed, such as the first inference, skips nothing.
    Source: Black et al. 2025, "Real-Time Execution of Action Chunking Flow Policies", arXiv:2506.07339.

    Attributes:
        consumed: commands given since the last `reset`.
        late_chunks: offered chunks that were dropped: every row of them was consumed, or they were older or expired.
    """

    _MARKS = 64  # inferences that may be under way

    def __init__(self) -> None:
        self.late_chunks = 0
        self.reset()

    def reset(self) -> None:
        """Forget the chunk, the time and what was consumed."""
        self._time = _Time()
        self._chunk: ActionChunk | None = None
        self._start = 0  # what `consumed` was when the chunk's observation was taken
        self._marks: deque[tuple[int, int]] = deque(maxlen=self._MARKS)  # (observed_ns, consumed)
        self.consumed = 0

    def observed(self, observed_ns: int, stamp_ns: int) -> None:
        """See `Executor`; the same observation given twice counts from the first time."""
        self._time.check(stamp_ns)
        if all(known != observed_ns for known, _ in self._marks):
            self._marks.append((observed_ns, self.consumed))

    def offer(self, chunk: ActionChunk, stamp_ns: int) -> bool:
        """See `Executor`.

        Raises:
            SessionError: `observed` was never called with this chunk's `observed_ns`.
        """
        self._time.check(stamp_ns)
        start = next((consumed for observed_ns, consumed in self._marks if observed_ns == chunk.observed_ns), None)
        if start is None:
            raise SessionError(
                f"executor: no observation of {chunk.observed_ns} ns was announced; "
                "call observed() when the model is asked"
            )
        older = self._chunk is not None and chunk.observed_ns < self._chunk.observed_ns
        if older or stamp_ns > chunk.valid_until_ns or self.consumed - start >= len(chunk.values):
            self.late_chunks += 1
            return False
        self._chunk, self._start = chunk, start
        return True

    def command(self, stamp_ns: int) -> Command | NoCommand:
        """See `Executor`; every call that returns a Command consumes its row."""
        self._time.check(stamp_ns)
        row = self.consumed - self._start
        if (refusal := _refusal(self._chunk, row, stamp_ns)) or self._chunk is None:
            return refusal or NoCommand("no_chunk", stamp_ns)
        self.consumed += 1
        chunk = self._chunk
        return Command(chunk.values[row].copy(), stamp_ns, chunk.observed_ns, chunk.sequence, row)

    def progress(self, stamp_ns: int) -> int | None:
        """See `Executor`."""
        row = self.consumed - self._start
        return None if _refusal(self._chunk, row, stamp_ns) else row

    def wants_chunk(self, stamp_ns: int) -> bool:
        """Only when the chunk has no row left."""
        return self.progress(stamp_ns) is None

    def leftover(self, stamp_ns: int) -> NDArray[np.float32] | None:
        """The rows not consumed yet, (R, A) with R >= 1, for models that are conditioned on them; None without any."""
        row = self.progress(stamp_ns)
        return None if row is None or self._chunk is None else self._chunk.values[row:].copy()


class RecedingHorizon:
    """Receding horizon: asks for the next chunk after `execute_steps` rows; the old one is used until that arrives."""

    def __init__(self, inner: Executor, execute_steps: int) -> None:
        if execute_steps < 1:
            raise ValueError(f"execute_steps: expected at least 1, got {execute_steps}")
        self._inner = inner
        self._execute_steps = execute_steps

    def set_geometry(self, geometry: Geometry) -> None:
        """See `Averaging`."""
        if isinstance(self._inner, Averaging):
            self._inner.set_geometry(geometry)

    def wants_chunk(self, stamp_ns: int) -> bool:
        """When `execute_steps` rows of the newest chunk lie behind, or it has none left."""
        progress = self._inner.progress(stamp_ns)
        return progress is None or progress >= self._execute_steps

    def observed(self, observed_ns: int, stamp_ns: int) -> None:
        """See `Executor`."""
        self._inner.observed(observed_ns, stamp_ns)

    def offer(self, chunk: ActionChunk, stamp_ns: int) -> bool:
        """See `Executor`."""
        return self._inner.offer(chunk, stamp_ns)

    def command(self, stamp_ns: int) -> Command | NoCommand:
        """See `Executor`."""
        return self._inner.command(stamp_ns)

    def progress(self, stamp_ns: int) -> int | None:
        """See `Executor`."""
        return self._inner.progress(stamp_ns)

    def reset(self) -> None:
        """See `Executor`."""
        self._inner.reset()
