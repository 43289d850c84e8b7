"""What came of an episode, to the last bit: to compare one driven through ROS with one driven in one process."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.contract import Spec
from edgevlm_tabletop.experts import MAX_STEP_M
from edgevlm_tabletop.sim import TabletopSimulator

_LIMITS = np.array((MAX_STEP_M,) * 3 + (1.0,))


class Record(Spec):
    """One episode of the simulator node: a line of its journal.

    Attributes:
        sha256: over the float32 bytes of every action as it was executed, then the final physical state.
        rested: steps in which no valid command was there.
        dropped: commands that were not taken, by reason.
        frame_stamps_ns: of the camera frames that were sent.
    """

    seed: int
    command: str
    variant: str
    success: bool
    steps: int
    sha256: str
    rested: int
    dropped: dict[str, int]
    frame_stamps_ns: tuple[int, ...]


class WitnessedSimulator(TabletopSimulator):
    """The simulator, keeping a hash of all that it was told in this episode."""

    def __init__(self) -> None:
        super().__init__()
        self._commands = hashlib.sha256()
        self.applied = 0

    def reset(self, *, seed: int, command: str, variant: str = "plain") -> None:
        """See `TabletopSimulator`."""
        super().reset(seed=seed, command=command, variant=variant)
        self._commands = hashlib.sha256()
        self.applied = 0

    def apply(self, values: NDArray[np.float32]) -> None:
        """See `TabletopSimulator`; a step of rest counts as the action that it is."""
        super().apply(values)
        # What is executed: the simulator clips actions to its limits, and on the wire the gate has done so before.
        self._commands.update(np.clip(values.astype(np.float64), -_LIMITS, _LIMITS).astype(np.float32).tobytes())
        self.applied += 1

    def digest(self) -> str:
        """The hash of the actions so far and the physical state now."""
        digest = self._commands.copy()
        digest.update(np.ascontiguousarray(self.snapshot(), np.float64).tobytes())
        return digest.hexdigest()
