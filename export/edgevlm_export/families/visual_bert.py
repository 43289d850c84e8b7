"""VisualBERT: regions of a picture, given as features, and a question in one row; the answers are labels.

`VisualBertForQuestionAnswering` reads its answer at the last word of the question, `VisualBertForVisualReasoning` at
the first token. Of the last layer only that one place is computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgevlm.errors import CheckpointError, FamilyError
from edgevlm.manifest.schema import CrossArgs, CrossSpec, Port, TextSpec
from edgevlm_export.checkpoint import CONFIG, TOKENIZER, Checkpoint
from edgevlm_export.families.common.bert_layers import ACTIVATIONS, forward, looks_at_all
from edgevlm_export.families.common.upstream import (
    check_vocabulary,
    load_model,
    open_config,
    tokenizer_content,
    unsupported,
)
from edgevlm_export.families.common.upstream_inputs import check_texts, text_room
from edgevlm_export.prepared import Prepared
from edgevlm_export.stage_graph import ScorerGraph, ScorerReference, Stage, one_thread
from edgevlm_export.tracing.repeated_layers import Chain, Piece

ANSWERING, REASONING = "VisualBertForQuestionAnswering", "VisualBertForVisualReasoning"
FEWEST, USUAL = 2, 16  # ids of a text; begin and end are always there
REGIONS = (1, 36, 256)  # fewest, usual and most: detectors give 10 to 100
TRACED = ((3, 4), (5, 7))  # words and regions of two examples
ALLOWED = {"bypass_transformer": (False,), "hidden_act": ACTIVATIONS}


def prepare(checkpoint: Checkpoint) -> Prepared:
    """A VisualBERT checkpoint directory as one stage that reads words and regions together.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others; published ones lack the tokenizer.
        FamilyError: a variant that is not supported; with the field.
    """
    architecture = _architecture(checkpoint)
    unsupported(checkpoint, open_config(checkpoint, architecture), ALLOWED)
    if not checkpoint.has(TOKENIZER):
        raise CheckpointError(
            f"{checkpoint / TOKENIZER}: expected this file, found none; checkpoints of this model are published "
            "without it: copy tokenizer.json and tokenizer_config.json of the BERT model that it began from "
            "(google-bert/bert-base-uncased for uclanlp/visualbert-*) into the directory"
        )
    tokenizer, ids = tokenizer_content(checkpoint), checkpoint.token_ids
    upstream = checkpoint.tokenizer
    check_texts(checkpoint, tokenizer, upstream)
    config = checkpoint.part("VisualBertConfig")
    check_vocabulary(checkpoint, ids, config.vocab_size)
    if config.type_vocab_size < 2:
        raise FamilyError(
            f"{checkpoint / CONFIG}: 'type_vocab_size': expected 2 or more, got {config.type_vocab_size}; regions are "
            "of the second type"
        )
    labels = _labels(checkpoint, config)

    def load() -> ScorerGraph:
        return _graph(checkpoint, architecture, tokenizer, upstream, labels)

    room = text_room(tokenizer, config.max_position_embeddings)
    fewest, _, many = REGIONS
    return Prepared(task="scorer", load=load, room=room, regions=(fewest, many, config.visual_embedding_dim))


def _graph(
    checkpoint: Checkpoint, architecture: str, tokenizer: str, upstream: Any, labels: tuple[str, ...]
) -> ScorerGraph:
    model = load_model(checkpoint, architecture, attn_implementation="eager")
    most = model.config.max_position_embeddings
    return ScorerGraph(
        family="visual_bert",
        stages=(_head(model, architecture, most, len(labels)),),
        driver=CrossSpec(args=CrossArgs(vision=None, text=None, head="head", scores="softmax")),
        preprocess={},
        tokenizer=tokenizer,
        text=TextSpec(max_tokens=most, length="own"),
        labels=labels,
        width=model.config.visual_embedding_dim,
        reference=_reference(model, upstream),
        source_sha256=checkpoint.sha256(),
    )


def _architecture(checkpoint: Checkpoint) -> str:
    said = checkpoint.architectures
    if said not in ((ANSWERING,), (REASONING,)):
        raise FamilyError(
            f"{checkpoint / CONFIG}: 'architectures': expected [{ANSWERING!r}] or [{REASONING!r}], got "
            f"{list(said)!s:.120}; "
            "heads for pre-training, multiple choice and phrases are not supported"
        )
    return said[0]


def _labels(checkpoint: Checkpoint, config: Any) -> tuple[str, ...]:
    """The names of the columns, in their order."""
    names = {int(place): str(name) for place, name in config.id2label.items()}
    if sorted(names) != list(range(config.num_labels)):
        raise FamilyError(
            f"{checkpoint / CONFIG}: 'id2label': expected a name for each column from 0 to {config.num_labels - 1}, "
            f"got {sorted(names)[:8]}"
        )
    labels = tuple(names[place] for place in range(len(names)))
    if not all(label.strip() for label in labels) or len(set(labels)) < 2:
        raise FamilyError(
            f"{checkpoint / CONFIG}: 'id2label': expected two or more different labels and none of them empty, got "
            f"{list(labels[:8])}; write what the columns mean"
        )
    return labels


class _Enter(nn.Module):
    """ids (1, L), features (1, R, V) -> words with their places, then regions, which have none: (1, L + R, H)."""

    def __init__(self, embeddings: Any) -> None:
        super().__init__()
        self.embeddings = embeddings

    def forward(self, ids: Tensor, features: Tensor) -> Tensor:
        """The vectors. Upstream adds the places in place, which no exporter should see."""
        tables = self.embeddings
        words = tables.word_embeddings(ids) + tables.token_type_embeddings.weight[0]
        words = words + tables.position_embeddings(torch.arange(ids.shape[1], device=ids.device)[None])
        regions = tables.visual_projection(features) + tables.visual_position_embeddings.weight[0]
        regions = regions + tables.visual_token_type_embeddings.weight[1]
        return tables.LayerNorm(torch.cat((words, regions), dim=1))  # type: ignore[no-any-return]


class _Layer(nn.Module):
    """hidden (1, L + R, H) -> the same."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor) -> Tensor:
        """The next layer's input."""
        return self.layer(hidden)[0]  # type: ignore[no-any-return]


class _Leave(nn.Module):
    """hidden (1, L + R, H), ids -> scores (1, C), with what the last layer makes of the one place that is read."""

    def __init__(self, model: Any, answering: bool) -> None:
        super().__init__()
        self.layer, self.cls = model.visual_bert.encoder.layer[-1], model.cls
        self.pooler = None if answering else model.visual_bert.pooler

    def forward(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """The scores; upstream answers at the last word, before the end token, and reasons at the first token."""
        wanted = hidden[:, :1] if self.pooler else hidden[:, : ids.shape[1]][:, -2:-1]
        made = forward(self.layer, looks_at_all(self.layer, hidden, wanted))
        # The row goes through the product as it is: anything between a norm and a product keeps it from being evened.
        return self.cls(self.pooler(made)) if self.pooler else self.cls(made)[:, 0]  # type: ignore[no-any-return]


def _head(model: Any, architecture: str, most: int, labels: int) -> Stage:
    usual, width = min(USUAL, most), model.config.visual_embedding_dim
    bert = model.visual_bert
    pieces = [Piece("enter", "enter", _Enter(bert.embeddings), ("ids", "features"), ("hidden",))]
    hidden = "hidden"
    for i, layer in enumerate(bert.encoder.layer[:-1]):
        pieces.append(Piece(f"layer_{i}", "layer", _Layer(layer), (hidden,), (f"hidden_{i}",)))
        hidden = f"hidden_{i}"
    pieces.append(Piece("leave", "leave", _Leave(model, architecture == ANSWERING), (hidden, "ids"), ("scores",)))
    small, large = (
        (torch.zeros(1, tokens, dtype=torch.int64), torch.zeros(1, regions, width)) for tokens, regions in TRACED
    )
    return Stage(
        name="head",
        module=Chain(pieces, ("ids", "features"), ("scores",), (small, large)).eval(),
        inputs=(
            Port(name="ids", dtype="int64", shape=(1, "tokens"), kind="ids"),
            Port(name="features", dtype="float32", shape=(1, "regions", width), kind="features"),
        ),
        outputs=(Port(name="scores", dtype="float32", shape=(1, labels), kind="scores"),),
        example=large,
        dynamic={"tokens": (FEWEST, usual, most), "regions": REGIONS},
    )


def _reference(model: Any, upstream: Any) -> ScorerReference:
    """`model` on regions and a text in one native forward."""

    def run(features: NDArray[np.float32], text: str) -> NDArray[np.float32]:
        seen = torch.from_numpy(np.array(features))[None]
        given = upstream([text], return_tensors="pt", return_token_type_ids=False)
        ones = torch.ones(seen.shape[:2], dtype=torch.long)
        with one_thread(), torch.no_grad():
            out = model(**given, visual_embeds=seen, visual_attention_mask=ones, visual_token_type_ids=ones)
        logits: NDArray[np.float32] = out.logits[0].numpy()
        return logits

    return run
