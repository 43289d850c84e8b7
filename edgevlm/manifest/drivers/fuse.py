"""The loop of a policy that makes its chunk in one go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from edgevlm.manifest.contract import Spec


class FuseArgs(Spec):
    """Which stage plays which part in the `fuse` driver of a policy.

    Attributes:
        vision: camera name -> image-only stage (pixels -> one feature map), run once per sampled frame.
        text: stage (ids, mask -> one vector), run once per instruction; null for a model that takes no words.
        pool: stage over the window; inputs `<camera>_<slot>`, slot 0 the oldest; one output per camera. Null where the
            head has these inputs itself.
        head: stage (pooled maps, text, state -> chunk[, waypoints, step_logits]).

    `text` and `pool` may be null since 1.2.
    """

    vision: Mapping[str, str] = Field(min_length=1)
    text: str | None
    pool: str | None
    head: str


class FuseSpec(Spec):
    """Frames, an instruction and the state -> one head: the loop of a policy."""

    name: Literal["fuse"] = "fuse"
    args: FuseArgs

    @property
    def stages(self) -> set[str]:
        """The stages it names."""
        args = self.args
        return {*args.vision.values(), args.head, *(name for name in (args.text, args.pool) if name is not None)}

    @property
    def words(self) -> bool:
        """Whether the model takes any."""
        return self.args.text is not None

    @property
    def files(self) -> tuple[str, ...]:
        """The files it names."""
        return ()
