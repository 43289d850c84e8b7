"""What loops that say one token after the other share: the keys and values they keep, and the ports of the stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field, model_validator

from edgevlm.manifest.contract import MOST_TOKENS, Spec
from edgevlm.manifest.stages import Dimension, Port, PortKind, StageSpec

QUERY, PAST, KEYS = "query", "past", "keys"  # the dynamic dimensions of a decoder: new tokens, slots, both together

MOST_CACHED = 1 << 34  # numbers: 64 GB of float32

PortRequirements = Mapping[PortKind, tuple[int, tuple[Dimension, ...]]]  # kind -> how many ports, of which shape


class CacheSpec(Spec):
    """The keys and values that a decoder keeps of what it has read. Since 1.2.

    Attributes:
        heads: of the keys and the values of one layer, which may be fewer than those of the queries.
        slots: the longest context, in tokens: prompt and answer together.
        step: an engine gets the past in multiples of this many slots, so it meets few shapes.
    """

    layers: int = Field(gt=0, le=4096)
    heads: int = Field(gt=0, le=4096)
    head_dim: int = Field(gt=0, le=4096)
    slots: int = Field(gt=0, le=MOST_TOKENS)
    step: int = Field(gt=0, le=MOST_TOKENS)

    @model_validator(mode="after")
    def _check_size(self) -> CacheSpec:
        if self.slots % self.step:
            raise ValueError(f"slots must be a multiple of step, got {self.slots} and {self.step}")
        if (size := 2 * self.layers * self.heads * self.head_dim * self.slots) > MOST_CACHED:
            raise ValueError(f"expected at most {MOST_CACHED} keys and values of a session, got {size}")
        return self


class KVDecoderSpec(Spec):
    """A stage `decoder` that says the next token, and what surrounds it.

    With Q new tokens and P slots of the past, that stage has the inputs embeds (1, Q, H), positions (1, Q), one mask
    (1, 1, Q, P + Q) for each of `masks` (added to the scores: 0 or far below it), index (1,), which of the Q the logits
    are wanted of, and a past key and a past value (1, P, heads, head_dim) of each layer; the outputs logits (1, V) and
    a new key and a new value (1, Q, heads, head_dim) of each layer, all in the order of the layers.

    Attributes:
        vision: stage pixels (1, 3, S, S) -> features (1, T, H).
        decoder: the stage above.
        embeddings: file, .npy float32 or float16 (V, H): what the first layer reads, by token id.
        masks: port -> how many of the last positions it lets a token see, itself among them; null for all of them.
        chunk: the longest Q of a causal prompt's runs.
        first_position: the position of the first token.
        stop_ids: tokens that end an answer.
    """

    vision: str
    decoder: str
    embeddings: str
    cache: CacheSpec
    masks: Mapping[str, Annotated[int, Field(gt=0)] | None] = Field(min_length=1)
    chunk: int = Field(gt=0, le=MOST_TOKENS)
    first_position: int = Field(default=0, ge=0)
    stop_ids: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)

    @property
    def longest_run(self) -> int:
        """The most new tokens that one run of the decoder gets."""
        return min(self.chunk, self.cache.slots)


def check_kv_decoder(
    stages: Mapping[str, StageSpec], args: KVDecoderSpec, width: int, more: PortRequirements | None = None
) -> None:
    """Whether the stage `decoder` is what `KVDecoderSpec` says.

    Args:
        width: H, of the vectors it reads.
        more: what inputs it has besides.

    Raises:
        ValueError: naming the stage and what does not fit.
    """
    stage, cache = stages[args.decoder], args.cache
    slot: tuple[Dimension, ...] = (cache.heads, cache.head_dim)
    expected_inputs: dict[PortKind, tuple[int, tuple[Dimension, ...]]] = {
        "embeds": (1, (1, QUERY, width)),
        "positions": (1, (1, QUERY)),
        "mask": (len(args.masks), (1, 1, QUERY, KEYS)),
        "index": (1, (1,)),
        "past_key": (cache.layers, (1, PAST, *slot)),
        "past_value": (cache.layers, (1, PAST, *slot)),
        **(more or {}),
    }
    check_side(args.decoder, stage.inputs, expected_inputs)
    expected_outputs: dict[PortKind, tuple[int, tuple[Dimension, ...]]] = {
        "new_key": (cache.layers, (1, QUERY, *slot)),
        "new_value": (cache.layers, (1, QUERY, *slot)),
    }
    logits = [port for port in stage.outputs if port.kind == "logits"]
    if (
        len(logits) != 1
        or len(logits[0].shape) != 2
        or logits[0].shape[0] != 1
        or not isinstance(logits[0].shape[1], int)
    ):
        raise ValueError(f"stage {args.decoder!r}: expected one output of the kind 'logits' and the shape (1, V)")
    check_side(args.decoder, [port for port in stage.outputs if port not in logits], expected_outputs)
    if masks := {port.name for port in stage.inputs if port.kind == "mask"} ^ set(args.masks):
        raise ValueError(f"stage {args.decoder!r}: driver.args.masks and the ports of the kind 'mask' differ: {masks}")
    _check_ranges(args, stage)


def vision_shape(stage: StageSpec, name: str) -> tuple[Dimension, int]:
    """(T, H) of the features that a stage makes of one tile. Raises ValueError."""
    kinds = [port.kind for port in (*stage.inputs, *stage.outputs)]
    shape = stage.outputs[0].shape
    if kinds != ["pixels", "features"] or len(shape) != 3 or shape[0] != 1 or not isinstance(shape[2], int):
        raise ValueError(f"stage {name!r}: expected pixels -> features (1, T, H), got {kinds} and {shape}")
    return shape[1], shape[2]


def check_side(stage: str, ports: Sequence[Port], expected: PortRequirements) -> None:
    """Whether a stage has exactly the wanted ports on one side. Raises ValueError."""
    if others := [port.name for port in ports if port.kind not in expected]:
        raise ValueError(f"stage {stage!r}: a decoder has no such ports: {others}")
    for kind, (count, shape) in expected.items():
        matches = [port for port in ports if port.kind == kind]
        if len(matches) != count or any(port.shape != shape for port in matches):
            got = [f"{port.name} {port.shape}" for port in matches]
            raise ValueError(
                f"stage {stage!r}: expected {count} port(s) of the kind {kind!r} and the shape {shape}, got {got}"
            )


def _check_ranges(args: KVDecoderSpec, stage: StageSpec) -> None:
    query, past, keys = (stage.dynamic[symbol] for symbol in (QUERY, PAST, KEYS))
    if keys != (query[0] + past[0], query[1] + past[1], query[2] + past[2]):
        raise ValueError(
            f"stage {args.decoder!r}: dynamic {KEYS} must be {QUERY} + {PAST}, got {keys}, {query}, {past}"
        )
    if query[0] != 1 or query[2] < args.longest_run or past[0] > args.cache.step or past[2] < args.cache.slots:
        raise ValueError(
            f"stage {args.decoder!r}: expected {QUERY} from 1 to {args.longest_run} and {PAST} from "
            f"{args.cache.step} to {args.cache.slots}, got {query} and {past}"
        )
