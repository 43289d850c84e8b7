"""The loop of a policy that makes its chunk out of noise, in steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from edgevlm.manifest.contract import Spec


class DenoiseArgs(Spec):
    """What a robot sees and was told is read once; then noise becomes a chunk, step by step. Since 1.3.

    Time runs from 1 (noise) to 0 (the chunk): step i is told the time `1 - i / steps`, rounded to float32, and
    `sample += velocity * (-1 / steps)`, in float32. The model's columns are those of the contract's action, then some
    that nothing is made of.

    Attributes:
        vision: camera name -> image-only stage (pixels -> features (1, T, H)), run once per sampled frame.
        embeddings: file, .npy float32 or float16 (V, H): what the prefix reads of a text, by token id.
        prefix: stage (features of every camera as `<camera>`, embeds (1, L, H), the text's mask (1, L), state -> a
            cross key and a cross value of each layer), run once per observation.
        step: stage (sample (1, K, A), time (1, W), the text's mask, keys and values of prefix -> velocity (1, K, A)).
        steps: runs of `step` for one chunk.
        periods: shortest and longest period of the sines, then cosines, that tell a time: W numbers, made in float64.
        seed: of the noise: the n-th act since the last reset, counted from 0, gets `RandomState([seed, n])`, whose
            numbers are the same in every version of NumPy.
    """

    vision: Mapping[str, str] = Field(min_length=1)
    embeddings: str
    prefix: str
    step: str
    steps: int = Field(gt=0, le=10_000)
    periods: tuple[float, float]
    seed: int = Field(default=0, ge=0, lt=1 << 32)


class DenoiseSpec(Spec):
    """Frames, an instruction and the state -> a chunk, out of noise: the loop of a flow-matching policy. Since 1.3."""

    name: Literal["denoise"] = "denoise"
    args: DenoiseArgs

    @property
    def stages(self) -> set[str]:
        """The stages it names."""
        args = self.args
        return {*args.vision.values(), args.prefix, args.step}

    @property
    def files(self) -> tuple[str, ...]:
        """The files it names."""
        return (self.args.embeddings,)

    @property
    def words(self) -> bool:
        """Whether the model takes any."""
        return True
