"""BLIP's image-text matching: does this text fit this picture? Both are read together; each also has an embedding.

What the text's layers look at of a picture is made once for it, whatever the number of texts. Where a text is read
alone, for its embedding, the same layers look at nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgevlm.manifest.schema import PICTURE, CrossArgs, CrossSpec, Port, TextSpec
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.families.common.bert_layers import forward, looks_at_all
from edgevlm_export.families.common.blip import (
    IMAGE,
    LENGTHS,
    AloneLayer,
    Blip,
    Looking,
    ReadingLayer,
    Words,
    cross_ports,
    open_blip,
    vision_stage,
)
from edgevlm_export.families.common.upstream_inputs import text_room
from edgevlm_export.prepared import Prepared
from edgevlm_export.stage_graph import Answer, RetrieverGraph, RetrieverReference, Stage, one_thread
from edgevlm_export.tracing.repeated_layers import Chain, Piece

ARCHITECTURE = "BlipForImageTextRetrieval"
FEWEST, USUAL = 2, 16  # ids of a text; begin and end are always there


def prepare(checkpoint: Checkpoint) -> Prepared:
    """A BLIP checkpoint directory with a matching head, to be cut into vision, text and the head on both.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    blip = open_blip(checkpoint, ARCHITECTURE)
    room = text_room(blip.tokenizer_json, blip.config.text_config.max_position_embeddings)
    return Prepared(task="retriever", load=partial(_graph, checkpoint, blip), room=room)


def _graph(checkpoint: Checkpoint, blip: Blip) -> RetrieverGraph:
    model, config = blip.model, blip.model.config
    text, vision = config.text_config, config.vision_config
    layers, width, most = model.text_encoder.encoder.layer, config.image_text_hidden_size, text.max_position_embeddings
    tokens = (FEWEST, min(USUAL, most), most)
    places = (vision.image_size // vision.patch_size) ** 2 + 1
    return RetrieverGraph(
        family="blip",
        stages=(
            vision_stage(model.vision_model, layers, (_image_embedding(model, width),)),
            _text(model, tokens, width),
            _head(model, tokens, cross_ports(layers, IMAGE, places)),
        ),
        driver=CrossSpec(args=CrossArgs(vision="vision", text="text", head="head", scores="match")),
        preprocess={PICTURE: blip.operations},
        tokenizer=blip.tokenizer_json,
        text=TextSpec(max_tokens=most, length="own"),
        reference=_reference(model, blip.tokenizer),
        source_sha256=checkpoint.sha256(),
    )


class _First(nn.Module):
    """states (1, N, H) -> what a linear layer makes of the first one, (1, D)."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, states: Tensor) -> Tensor:
        """The vector; its length is made 1 by the host."""
        return self.linear(states[:, 0])  # type: ignore[no-any-return]


class _LastAlone(nn.Module):
    """hidden (1, L, H) -> the last layer's first token, through `linear`: (1, D)."""

    def __init__(self, layer: Any, linear: nn.Module) -> None:
        super().__init__()
        self.attention, self.intermediate, self.output = layer.attention, layer.intermediate, layer.output
        self.linear = linear

    def forward(self, hidden: Tensor) -> Tensor:
        """The vector."""
        return self.linear(forward(self, looks_at_all(self, hidden, hidden[:, :1])))[:, 0]  # type: ignore[no-any-return]


class _LastReading(_LastAlone):
    """As `_LastAlone`, with a look at the picture."""

    def __init__(self, layer: Any, linear: nn.Module) -> None:
        super().__init__(layer, linear)
        self.looking = Looking(layer.crossattention)

    def forward(self, hidden: Tensor, key: Tensor, value: Tensor) -> Tensor:  # type: ignore[override]
        """The vector."""
        seen = self.looking(looks_at_all(self, hidden, hidden[:, :1]), key, value)
        return self.linear(forward(self, seen))[:, 0]  # type: ignore[no-any-return]


def _image_embedding(model: Any, width: int) -> tuple[Piece, Port]:
    port = Port(name="image_embedding", dtype="float32", shape=(1, width), kind="embedding")
    return Piece("embed", "embed", _First(model.vision_proj), ("features",), (port.name,)), port


def _text(model: Any, tokens: tuple[int, int, int], width: int) -> Stage:
    """ids (1, L) -> text_embedding (1, D), without a picture."""
    layers = model.text_encoder.encoder.layer
    pieces = [Piece("words", "words", Words(model.text_encoder.embeddings), ("ids",), ("hidden",))]
    hidden = "hidden"
    for i, layer in enumerate(layers[:-1]):
        pieces.append(Piece(f"layer_{i}", "layer", AloneLayer(layer), (hidden,), (f"hidden_{i}",)))
        hidden = f"hidden_{i}"
    port = Port(name="text_embedding", dtype="float32", shape=(1, width), kind="embedding")
    pieces.append(Piece("last", "last", _LastAlone(layers[-1], model.text_proj), (hidden,), (port.name,)))
    return _stage("text", pieces, (), tokens, port)


def _head(model: Any, tokens: tuple[int, int, int], looked: tuple[Port, ...]) -> Stage:
    """ids (1, L) and a picture's keys and values -> scores (1, 2): no, yes."""
    layers = model.text_encoder.encoder.layer
    pieces = [Piece("words", "words", Words(model.text_encoder.embeddings), ("ids",), ("hidden",))]
    hidden, last = "hidden", len(layers) - 1
    for i, layer in enumerate(layers[:-1]):
        reads = (hidden, f"{IMAGE}_key_{i}", f"{IMAGE}_value_{i}")
        pieces.append(Piece(f"layer_{i}", "layer", ReadingLayer(layer), reads, (f"hidden_{i}",)))
        hidden = f"hidden_{i}"
    port = Port(name="scores", dtype="float32", shape=(1, 2), kind="scores")
    reads = (hidden, f"{IMAGE}_key_{last}", f"{IMAGE}_value_{last}")
    pieces.append(Piece("last", "last", _LastReading(layers[-1], model.itm_head), reads, (port.name,)))
    return _stage("head", pieces, looked, tokens, port)


def _stage(
    name: str, pieces: Sequence[Piece], looked: tuple[Port, ...], tokens: tuple[int, int, int], made: Port
) -> Stage:
    """A stage of ids (1, L) and what it looks at."""
    seen = tuple(torch.zeros([int(d) for d in port.shape]) for port in looked)
    small, large = ((torch.zeros(1, length, dtype=torch.int64), *seen) for length in LENGTHS)
    inputs = (Port(name="ids", dtype="int64", shape=(1, "tokens"), kind="ids"), *looked)
    return Stage(
        name=name,
        module=Chain(pieces, tuple(port.name for port in inputs), (made.name,), (small, large)).eval(),
        inputs=inputs,
        outputs=(made,),
        example=large,
        dynamic={"tokens": tokens},
    )


def _reference(model: Any, upstream: Any) -> RetrieverReference:
    """`model` on each picture, with all texts in one native forward; embeddings by its own projections."""

    def run(pixels: NDArray[np.float32], texts: Sequence[str]) -> Answer:
        tokens = upstream(list(texts), padding=True, return_token_type_ids=False, return_tensors="pt")
        logits, images = [], []
        with one_thread(), torch.no_grad():
            for picture in torch.from_numpy(pixels):
                shown = picture.expand(len(texts), -1, -1, -1)
                out = model(pixel_values=shown, **tokens)
                logits.append(out.itm_score[:, 1] - out.itm_score[:, 0])
                images.append(model.vision_proj(out.last_hidden_state[0, 0]))
            alone = model(pixel_values=shown, use_itm_head=False, **tokens).question_embeds[:, 0]
        seen, said = torch.stack(images), model.text_proj(alone)
        return Answer(torch.stack(logits).numpy(), _unit(seen), _unit(said))

    return run


def _unit(vectors: Tensor) -> NDArray[np.float32]:
    long: NDArray[np.float32] = nn.functional.normalize(vectors, dim=-1).numpy()
    return long
