"""What every attack is: seeded inputs as an enemy or a broken machine would make them, and what may come of each.

An attack is a class with `name`, `unit` and `one`. `benchmarks/attacks.py` runs it in a process of its own, a case
after the other, and ends a case that does not end by itself. ATTACKS there lists them all; a new one is a module and a
row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Attack(Protocol):
    """One kind of hostile or broken input.

    Attributes:
        name: as `make attack NAMES=...` takes it, e.g. "gate".
        unit: what is counted, in the plural, e.g. "gate sequences".
        limit_s: steady seconds after which a case counts as one that does not end.
        memory_mb: how much address space a case may take beyond what the process has when it starts.
    """

    name: str
    unit: str
    limit_s: float
    memory_mb: int

    def one(self, seed: int, directory: Path) -> str:
        """Make the case of this seed and give it to the product; `directory` is empty and its own.

        Returns:
            What came of it in one or two words: "held", "refused", "accepted", ...

        Raises:
            AssertionError: a promise was broken; the text says which, with the values.
            Exception: anything else is an untyped error, a finding as well. An EdgevlmError is caught by the attack
                itself wherever refusing is right.
        """
