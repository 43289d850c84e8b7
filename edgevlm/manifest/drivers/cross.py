"""The loop of one encoder over a picture and a text together."""

from __future__ import annotations

from typing import Literal

from edgevlm.manifest.contract import Spec


class CrossArgs(Spec):
    """A picture's features and a text, read together by one head. Since 1.3.

    Attributes:
        vision: stage (pixels -> what the head looks at: features, or keys and values ready to be looked at[, embedding
            (1, D)]), once per picture; null where features (1, R, H) themselves are given, such as those of regions
            that a detector found.
        text: stage (ids[, mask] -> embedding (1, D)), where texts can also be encoded alone; else null.
        head: stage (ids (1, L)[, mask (1, L)], outputs of vision by name -> scores (1, C)), once per pair.
        scores: what makes probabilities of its output: `match` has two columns, no and yes; `softmax` is over all.
    """

    vision: str | None
    text: str | None
    head: str
    scores: Literal["match", "softmax"]


class CrossSpec(Spec):
    """A picture and a text, encoded together: the loop of a matcher or a scorer. Since 1.3."""

    name: Literal["cross"] = "cross"
    args: CrossArgs

    @property
    def stages(self) -> set[str]:
        """The stages it names."""
        return {name for name in (self.args.vision, self.args.text, self.args.head) if name is not None}

    @property
    def files(self) -> tuple[str, ...]:
        """The files it names."""
        return ()
