"""The loop of a detector that is told in words what to look for."""

from __future__ import annotations

from typing import Literal

from edgevlm.manifest.contract import Spec


class RegionsArgs(Spec):
    """Regions of a picture, each compared with texts: `logits = (region . text + shift) * scale`. Since 1.3.

    Attributes:
        vision: stage (pixels -> regions (1, N, D) of length 1, boxes (1, N, 4) as centre x, centre y, width, height in
            0..1, shift (1, N), scale (1, N) and, for some models, objectness (1, N), a logit), once per picture.
        text: stage (ids[, mask] -> embedding (1, D) of length 1), run once per label.
        frame: what the boxes' 0..1 spans: the `picture`, or the `square` that it was padded to at the right or bottom.
    """

    vision: str
    text: str
    frame: Literal["picture", "square"]


class RegionsSpec(Spec):
    """A picture's regions and texts, encoded apart and compared: the loop of a detector. Since 1.3."""

    name: Literal["regions"] = "regions"
    args: RegionsArgs

    @property
    def stages(self) -> set[str]:
        """The stages it names."""
        return {self.args.vision, self.args.text}

    @property
    def files(self) -> tuple[str, ...]:
        """The files it names."""
        return ()
