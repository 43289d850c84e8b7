"""Small checkpoints of models that read a picture, or features of its regions, and a text together."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    BertTokenizer,
    VisualBertConfig,
    VisualBertForQuestionAnswering,
    VisualBertForVisualReasoning,
)

from edgevlm.data.pictures import TEXTS

WIDTH = 40  # features of a region
LABELS = ("yes", "no", "red", "blue", "two", "a cat", "on the table", "nothing", "left", "right")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
Edit = Callable[[Any], None]


def visual_bert(root: Path, *, reasoning: bool = False, seed: int = 0, edit: Edit | None = None, **save: Any) -> Path:
    """A VisualBERT checkpoint directory with the tokenizer that published ones lack; `edit` may change the model."""
    tokenizer = word_pieces()
    labels = LABELS[:2] if reasoning else LABELS
    config = VisualBertConfig(
        vocab_size=len(tokenizer),
        visual_embedding_dim=WIDTH,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=48,
        pad_token_id=0,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    torch.manual_seed(seed)
    model = (VisualBertForVisualReasoning if reasoning else VisualBertForQuestionAnswering)(config).eval()
    _sharpen(model)
    if edit:
        edit(model)
    model.save_pretrained(root, **save)
    tokenizer.save_pretrained(root)
    return root


def visual_bert_outliers(model: Any) -> None:
    """Channels 64 times as large behind the last norm, and a head that undoes it: the same function.

    No other norm of this kind of transformer can be enlarged so: what it puts out is also added to what comes next.
    """
    assert isinstance(model, VisualBertForQuestionAnswering)  # the pooler of the others reads past a slice
    with torch.no_grad():
        last = model.visual_bert.encoder.layer[-1].output.LayerNorm
        last.weight[::16] *= 64
        last.bias[::16] *= 64
        model.cls.weight[:, ::16] /= 64


def regions(count: int = 12, *, seed: int = 0, width: int = WIDTH) -> NDArray[np.float32]:
    """Features as a detector's last layer has them: half of them zero, and regions of one picture are akin."""
    generator = np.random.default_rng(seed)
    drawn = generator.standard_normal(width) + generator.standard_normal((count, width))
    return np.maximum(drawn, 0).astype(np.float32)


def regions_folder(root: Path, files: int = 12) -> Path:
    """A folder of .npy files with features of different numbers of regions."""
    root.mkdir(parents=True)
    for i in range(files):
        np.save(root / f"picture-{i:02}.npy", regions(4 + 3 * (i % 7), seed=100 + i))
    return root


def word_pieces() -> Any:
    """A BERT tokenizer over the built-in texts: lower case, without accents."""
    words = sorted({word for text in (*TEXTS, *LABELS) for word in re.findall(r"[a-z]+|[^a-z\s]", text.lower())})
    letters = sorted({letter for word in words for letter in word} | set(string.ascii_lowercase + string.digits))
    pieces = dict.fromkeys((*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words))
    return BertTokenizer(vocab={piece: place for place, piece in enumerate(pieces)}, model_max_length=48)


def _sharpen(model: Any) -> None:
    """Make words, places, regions and heads weigh as much as after training, so that every input matters."""
    factors = {"position_embeddings": 8.0, "word_embeddings": 6.0, "visual_projection": 12.0, "cls": 8.0}
    factors |= {"query": 8.0, "key": 8.0, "value": 6.0, "dense": 4.0}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(".weight"):
                weight.mul_(factors.get(name.split(".")[-2], 1.0))
