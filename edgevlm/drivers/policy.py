"""What a policy asks of its driver, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from edgevlm.graph import Memory, Value

Text = tuple[Value, Value]  # ids (1, L), mask (1, L)


class PolicyDriver(Protocol):
    """Host code around the stages of one bundle; shared by sessions, holds no state."""

    def memory(self) -> Memory:
        """A fresh session's memory."""
        ...

    def encode(self, camera: str, pixels: Value, memory: Memory) -> Value:
        """The features of one frame, run once for each frame."""
        ...

    def forget(self, camera: str, pixels: Value, memory: Memory) -> None:
        """A frame left the window: let its features go."""
        ...

    def encodes(self, memory: Memory) -> int:
        """Image encodes since the session began, over all cameras."""
        ...

    def run(
        self,
        window: Mapping[str, Sequence[Value | None]],
        text: Text | None,
        state: Value | None,
        memory: Memory,
        act: int,
    ) -> dict[str, Value]:
        """What the model puts out, normalised: "chunk" (1, K, A) and, with a plan, "waypoints" and "step_logits".

        Args:
            window: camera -> pixels of every slot, oldest first; None where a slot is masked.
            text: None where the model takes no words.
            state: normalised (1, S).
            act: how many acts there were since the session's last reset; all that chance may depend on.
        """
        ...
