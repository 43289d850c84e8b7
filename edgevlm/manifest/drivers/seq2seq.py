"""The loop of a decoder that looks at what an encoder made, and says one token after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from edgevlm.manifest.contract import Spec
from edgevlm.manifest.drivers.kv_decoder import KVDecoderSpec, PortRequirements, check_kv_decoder
from edgevlm.manifest.stages import PortKind, StageSpec

LOOKED_AT: tuple[PortKind, ...] = ("features", "cross_key", "cross_value")  # kinds of what is made once for a question


class Seq2SeqArgs(KVDecoderSpec):
    """A picture, and a question about it or the beginning of an answer -> the answer. Since 1.3.

    What the decoder looks at besides its own tokens is made once for each picture and question, and is handed on by
    name: the outputs of `vision` (features, or keys and values ready to be looked at) are inputs of `encoder`, whose
    outputs are inputs of `decoder`; without an encoder those of `vision` are.

    Attributes:
        vision: stage pixels (1, 3, S, S) -> what the next one looks at.
        encoder: stage (ids (1, L), what vision made -> what the decoder looks at): reads the question beside the
            picture; null where the decoder looks at the picture itself.
        begin: the tokens that every answer's row begins with.
    """

    encoder: str | None
    begin: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)


class Seq2SeqSpec(Spec):
    """A picture encoded once, an answer said token by token: the loop of a captioner. Since 1.3."""

    name: Literal["seq2seq"] = "seq2seq"
    args: Seq2SeqArgs

    @property
    def stages(self) -> set[str]:
        """The stages it names."""
        return {name for name in (self.args.vision, self.args.encoder, self.args.decoder) if name is not None}

    @property
    def files(self) -> tuple[str, ...]:
        """The files it names."""
        return (self.args.embeddings,)


def check_seq2seq(stages: Mapping[str, StageSpec], args: Seq2SeqArgs) -> None:
    """Whether the stages are what `Seq2SeqArgs` says.

    Raises:
        ValueError: naming the stage and what does not fit.
    """
    embeds = [port.shape[-1] for port in stages[args.decoder].inputs if port.kind == "embeds"]
    if len(embeds) != 1 or not isinstance(embeds[0], int):
        raise ValueError(f"stage {args.decoder!r}: expected one input of the kind 'embeds' and a known width")
    if [port.kind for port in stages[args.vision].inputs] != ["pixels"]:
        raise ValueError(f"stage {args.vision!r}: expected pixels as its one input")
    if args.encoder is not None:
        _handed_on(stages, args.vision, args.encoder)
        others = [port.kind for port in stages[args.encoder].inputs if port.kind not in LOOKED_AT]
        if others != ["ids"]:
            raise ValueError(f"stage {args.encoder!r}: expected ids and what {args.vision!r} makes, got {others}")
    check_kv_decoder(stages, args, embeds[0], _handed_on(stages, args.encoder or args.vision, args.decoder))
    if len(args.begin) >= args.cache.slots:
        raise ValueError(f"begin: expected fewer tokens than the {args.cache.slots} slots, got {len(args.begin)}")


def check_question(stages: Mapping[str, StageSpec], args: Seq2SeqArgs, reader: str, most: int) -> None:
    """Whether who reads a question of at most `most` tokens can read it.

    Raises:
        ValueError: naming what does not fit.
    """
    expected = "decoder" if args.encoder is None else "encoder"
    if reader != expected:
        raise ValueError(f"question.reader: expected {expected!r}, as driver.args has it")
    if args.encoder is None:
        return  # what it reads shares the slots with the answer: whether it fits is told when it is asked
    stage = stages[args.encoder]
    shape = next(port.shape for port in stage.inputs if port.kind == "ids")
    if len(shape) != 2 or shape[0] != 1 or not isinstance(shape[1], str):
        raise ValueError(f"stage {args.encoder!r}: expected ids (1, L) of any length L, got {shape}")
    longest = stage.dynamic[shape[1]][2]
    if most > longest:
        raise ValueError(f"question.max_tokens: expected at most {longest}, as stage {args.encoder!r}, got {most}")


def _handed_on(stages: Mapping[str, StageSpec], giver: str, taker: str) -> PortRequirements:
    """What `taker` gets of `giver`, by kind, after checking that it gets all of it as it is."""
    outputs = [(port.name, port.kind, port.shape) for port in stages[giver].outputs]
    got = [(port.name, port.kind, port.shape) for port in stages[taker].inputs if port.kind in LOOKED_AT]
    if not outputs or outputs != got:
        raise ValueError(f"stage {taker!r}: expected the outputs of {giver!r} as inputs, in their order, got {got}")
    for symbol in {size for _, _, shape in outputs for size in shape if isinstance(size, str)}:
        one, other = stages[giver].dynamic[symbol], stages[taker].dynamic[symbol]
        if one != other:
            raise ValueError(f"stage {taker!r}: expected dynamic {symbol!r} {one}, as {giver!r} has it, got {other}")
    return {kind: (sum(kind == other for _, other, _ in outputs), shape) for _, kind, shape in outputs}
