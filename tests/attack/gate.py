"""Sequences of clocks, pushes, chunks, states and faults against the command gate, each command judged on its own.

The judge (`support.gate_judge`) knows commands, measured states, limits and the two clocks, and nothing of the gate.
"""

from __future__ import annotations

from pathlib import Path

from support.gate_storm import Storm

_MOVED = 10  # commands with values that make a sequence worth its name


class GateSequences:
    """See `attack.base.Attack`."""

    name = "gate"
    unit = "gate sequences"
    limit_s = 30.0
    memory_mb = 1024

    def one(self, seed: int, directory: Path) -> str:
        """150 commands of the storm that this seed makes."""
        storm = Storm(seed)
        storm.run()
        return f"held ({storm.judge.time} time)" if storm.judged >= _MOVED else "held (at rest)"
