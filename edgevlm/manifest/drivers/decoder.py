"""The loop of words and pictures in one row, continued token by token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from edgevlm.manifest.contract import Spec
from edgevlm.manifest.drivers.kv_decoder import KVDecoderSpec, check_kv_decoder, vision_shape
from edgevlm.manifest.stages import StageSpec


class DecoderArgs(KVDecoderSpec):
    """A picture's features among the vectors of words, and a decoder that says the next word. Since 1.2.

    Attributes:
        prefix: `causal` is the usual case; in a `bidirectional` one the tokens of the prompt see each other whole, so
            the prompt is fed in one run.
    """

    prefix: Literal["causal", "bidirectional"] = "causal"

    @property
    def longest_run(self) -> int:
        """The most new tokens that one run of the decoder gets."""
        return self.cache.slots if self.prefix == "bidirectional" else super().longest_run


class DecoderSpec(Spec):
    """A prompt of words and pictures, continued token by token: the loop of a chat. Since 1.2."""

    name: Literal["decoder"] = "decoder"
    args: DecoderArgs

    @property
    def stages(self) -> set[str]:
        """The stages it names."""
        return {self.args.vision, self.args.decoder}

    @property
    def files(self) -> tuple[str, ...]:
        """The files it names."""
        return (self.args.embeddings,)


def check_decoder(stages: Mapping[str, StageSpec], args: DecoderArgs) -> None:
    """Whether the stages are what `DecoderArgs` says.

    Raises:
        ValueError: naming the stage and what does not fit.
    """
    _, width = vision_shape(stages[args.vision], args.vision)
    check_kv_decoder(stages, args, width)
