"""BLIP: captions, by a decoder that looks at the picture, and answers, by one that looks at an encoded question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgevlm.errors import FamilyError
from edgevlm.manifest.drivers import CacheSpec
from edgevlm.manifest.schema import PICTURE, Port, QuestionSpec, Seq2SeqArgs, Seq2SeqSpec
from edgevlm_export.checkpoint import CONFIG, Checkpoint
from edgevlm_export.families.common.blip import (
    IMAGE,
    LENGTHS,
    QUESTION,
    Blip,
    Entering,
    SayingLayer,
    cross_ports,
    look_pieces,
    open_blip,
    reading_pieces,
    vision_stage,
)
from edgevlm_export.families.common.chatting import ANSWER, cache_spec, embedding_table, greedy
from edgevlm_export.families.common.decoding import CHUNK, MASKS, Head, Sizes, cached_stage
from edgevlm_export.families.common.upstream import check_search, open_config
from edgevlm_export.families.common.upstream_inputs import text_room
from edgevlm_export.prepared import Prepared, Room
from edgevlm_export.stage_graph import EMBEDDINGS, ChatReference, Logits, QuestionGraph, Said, Stage
from edgevlm_export.tracing.repeated_layers import Chain, Piece

CAPTIONS, ANSWERS = "BlipForConditionalGeneration", "BlipForQuestionAnswering"
MASK = MASKS["full_attention"]
USUAL_WIDTH = 768  # where the configuration does not say it
ASKED, FEWEST, USUAL = "asked", 2, 16  # the length of a question: its begin and its end are always there


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What is peculiar to one of the two.

    Attributes:
        stages: vision, then encoder if there is one.
        looked_at: what the decoder gets of the last of them, and the range of its length where that differs.
    """

    stages: tuple[Stage, ...]
    looked_at: tuple[Port, ...]
    lengths: dict[str, tuple[int, int, int]]
    question: QuestionSpec
    reference: ChatReference


def prepare(checkpoint: Checkpoint, context: int | None = None) -> Prepared:
    """A BLIP checkpoint directory that makes captions or answers questions, to be cut into stages.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    (architecture,) = checkpoint.architectures  # the adapter was found by it
    said = open_config(checkpoint, architecture)
    if architecture == ANSWERS:
        _check_widths(checkpoint, said)
    blip = open_blip(checkpoint, architecture)
    text = blip.config.text_config
    cache = cache_spec(checkpoint, text, context)
    begin, stop = (_token(checkpoint, text, name) for name in ("bos_token_id", "sep_token_id"))
    return Prepared(
        task="chat",
        load=partial(_graph, checkpoint, blip, cache, (begin, stop)),
        room=_room(blip, cache, architecture),
    )


def _room(blip: Blip, cache: CacheSpec, architecture: str) -> Room:
    """A question has its own encoder; a caption goes on from words that the decoder has read."""
    alone = text_room(blip.tokenizer_json, blip.config.text_config.max_position_embeddings)
    if architecture == ANSWERS:
        return alone
    return replace(alone, most=cache.slots, answer=ANSWER, raised_by="--context")


def _graph(checkpoint: Checkpoint, blip: Blip, cache: CacheSpec, ends: tuple[int, int]) -> QuestionGraph:
    parts = _captions(blip, cache) if blip.architecture == CAPTIONS else _answers(blip)
    begin, stop = ends
    for model in (blip.model, blip.model.text_decoder):  # the file, and what upstream's search really takes
        check_search(checkpoint, model.generation_config)
    encoder = parts.stages[1].name if len(parts.stages) > 1 else None
    args = Seq2SeqArgs(
        vision="vision",
        encoder=encoder,
        decoder="decoder",
        embeddings=EMBEDDINGS,
        cache=cache,
        masks={MASK: None},
        chunk=min(CHUNK, cache.slots),
        begin=(begin,),
        stop_ids=(stop,),
    )
    return QuestionGraph(
        family="blip",
        stages=(*parts.stages, _decoder(blip, cache, parts)),
        driver=Seq2SeqSpec(args=args),
        preprocess={PICTURE: blip.operations},
        tokenizer=blip.tokenizer_json,
        question=parts.question,
        embeddings=embedding_table(blip.model.text_decoder.bert.embeddings.word_embeddings),
        reference=parts.reference,
        source_sha256=checkpoint.sha256(),
    )


def _captions(blip: Blip, cache: CacheSpec) -> _Parts:
    layers = blip.model.text_decoder.bert.encoder.layer
    vision = vision_stage(blip.model.vision_model, layers)
    question = QuestionSpec(reader="decoder", max_tokens=cache.slots, special_tokens=False, needs_text=False)
    return _Parts(
        stages=(vision,), looked_at=vision.outputs, lengths={}, question=question, reference=_Captions(blip.model)
    )


def _check_widths(checkpoint: Checkpoint, said: Mapping[str, Any]) -> None:
    """The answer looks at the question with weights that were made for what is as wide as a picture."""
    text, vision = ((said.get(name) or {}).get("hidden_size", USUAL_WIDTH) for name in ("text_config", "vision_config"))
    if text != vision:
        raise FamilyError(
            f"{checkpoint / CONFIG}: 'text_config.hidden_size': expected 'vision_config.hidden_size' {vision!r:.20}, "
            f"got {text!r:.20}; this variant is not supported"
        )


def _answers(blip: Blip) -> _Parts:
    model, config = blip.model, blip.model.config
    vision = vision_stage(model.vision_model, model.text_encoder.encoder.layer)
    encoder = _encoder(blip, vision)
    most = config.text_config.max_position_embeddings
    question = QuestionSpec(reader="encoder", max_tokens=most, special_tokens=True, needs_text=True)
    return _Parts(
        stages=(vision, encoder),
        looked_at=encoder.outputs,
        lengths=dict(encoder.dynamic),
        question=question,
        reference=_Answers(model),
    )


def _encoder(blip: Blip, vision: Stage) -> Stage:
    """ids (1, L), what vision makes -> the cross keys and values of the decoder's layers, of the question."""
    layers = blip.model.text_decoder.bert.encoder.layer
    pieces = [*reading_pieces(blip.model.text_encoder), *look_pieces(layers, "states", QUESTION)]
    inputs = (Port(name="ids", dtype="int64", shape=(1, ASKED), kind="ids"), *vision.outputs)
    outputs = cross_ports(layers, QUESTION, ASKED)
    seen = tuple(torch.zeros(*port.shape) for port in vision.outputs)  # type: ignore[arg-type]  # all are numbers
    examples = tuple((torch.zeros(1, length, dtype=torch.int64), *seen) for length in LENGTHS)
    names = [tuple(port.name for port in ports) for ports in (inputs, outputs)]
    most = blip.model.config.text_config.max_position_embeddings
    return Stage(
        name="encoder",
        module=Chain(pieces, names[0], names[1], (examples[0], examples[1])).eval(),
        inputs=inputs,
        outputs=outputs,
        example=examples[1],
        dynamic={ASKED: (FEWEST, min(USUAL, most), most)},
    )


def _decoder(blip: Blip, cache: CacheSpec, parts: _Parts) -> Stage:
    decoder, text = blip.model.text_decoder, blip.model.config.text_config
    pieces = [Piece("enter", "enter", Entering(decoder.bert.embeddings), ("embeds", "positions"), ("hidden",))]
    hidden, name = "hidden", IMAGE if len(parts.stages) == 1 else QUESTION
    for i, layer in enumerate(decoder.bert.encoder.layer):
        past = (f"past_key_{i}", f"past_value_{i}")
        reads = (hidden, MASK, *past, f"{name}_key_{i}", f"{name}_value_{i}")
        hidden = f"hidden_{i}"
        pieces.append(
            Piece(f"layer_{i}", "layer", SayingLayer(layer), reads, (hidden, f"new_key_{i}", f"new_value_{i}"))
        )
    words = decoder.cls.predictions
    pieces.append(Piece("head", "head", Head(words.transform, words.decoder, None), (hidden, "index"), ("logits",)))
    sizes = Sizes(cache, text.hidden_size, text.vocab_size, min(CHUNK, cache.slots))
    return cached_stage(pieces, sizes, (MASK,), parts.looked_at, parts.lengths)


class _Captions:
    """Upstream's greedy search, on the ids that the decoder begins with; see `ChatReference`."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, ids: Sequence[int], pixels: NDArray[np.float32] | None, most: int) -> tuple[Said, Logits]:
        """Upstream takes the question with its first and last sign, puts its own begin there and drops the end."""
        assert pixels is not None
        end = self._model.config.text_config.sep_token_id
        given = {"pixel_values": torch.from_numpy(pixels), "input_ids": torch.tensor([[*ids, end]])}
        return greedy(self._model, given, len(ids), most)


class _Answers:
    """Upstream's greedy search, on the ids of a question; see `ChatReference`."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, ids: Sequence[int], pixels: NDArray[np.float32] | None, most: int) -> tuple[Said, Logits]:
        """What is said comes after the one sign that every answer begins with."""
        assert pixels is not None
        given: dict[str, Tensor] = {"pixel_values": torch.from_numpy(pixels), "input_ids": torch.tensor([list(ids)])}
        return greedy(self._model, given, 1, most)


def _token(checkpoint: Checkpoint, text: Any, name: str) -> int:
    found = getattr(text, name, None)
    if not isinstance(found, int) or not 0 <= found < text.vocab_size:
        raise FamilyError(
            f"{checkpoint / CONFIG}: 'text_config.{name}': expected an id below {text.vocab_size}, got {found!r:.40}; "
            "an answer begins with 'bos_token_id' and ends with 'sep_token_id'"
        )
    return found
