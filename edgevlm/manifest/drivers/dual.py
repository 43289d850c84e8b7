"""The loop of two encoders into one space."""

from __future__ import annotations

from typing import Literal

from edgevlm.manifest.contract import Spec


class DualArgs(Spec):
    """Two encoders into one space: `logits = scale * cosine(image, text) + bias`. Since 1.1.

    Attributes:
        vision: stage (pixels -> one embedding), run once per picture.
        text: stage (ids[, mask] -> one embedding), run once per text.
        scores: what makes probabilities of one picture's logits: `softmax` over the texts, or `sigmoid` of each.
    """

    vision: str
    text: str
    scale: float
    bias: float = 0.0
    scores: Literal["softmax", "sigmoid"]


class DualSpec(Spec):
    """A picture and texts, encoded apart and compared: the loop of a retriever. Since 1.1."""

    name: Literal["dual"] = "dual"
    args: DualArgs

    @property
    def stages(self) -> set[str]:
        """The stages it names."""
        return {self.args.vision, self.args.text}

    @property
    def files(self) -> tuple[str, ...]:
        """The files it names."""
        return ()
