"""Small checkpoints of BLIP's and BLIP-2's chats, saved with upstream code: fixed seeds, weights scaled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from support import wording
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
    OPTConfig,
)

transformers.utils.logging.disable_progress_bar()
SIDE, PATCH = 32, 8
TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
VISION = {"image_size": SIDE, "patch_size": PATCH, **TOWER}
PLACES = 128  # of the text
QUERIES = 4  # features of one picture, of BLIP-2
Edit = Callable[[Any], None]


def blip(root: Path, *, seed: int = 0, edit: Edit | None = None, **save: Any) -> Path:
    """A BLIP checkpoint directory that makes captions; `edit` may change the model before it is saved."""
    return _blip(root, BlipForConditionalGeneration, seed, _talkative(edit, keen=1.5), save)


def blip_vqa(root: Path, *, seed: int = 1, edit: Edit | None = None, **save: Any) -> Path:
    """A BLIP checkpoint directory that answers questions."""
    return _blip(root, BlipForQuestionAnswering, seed, _talkative(edit, keen=1.05, reading=0.75), save)


def _talkative(edit: Edit | None, keen: float, reading: float = 1.0) -> Edit:
    """What was said weighs more beside a picture that is always the same, so that answers vary; then `edit`.

    `keen` is how sharply layers tell apart what they look at, `reading` the same of an encoder's.
    """

    def edited(model: Any) -> None:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "crossattention.output.dense.weight" in name:
                    weight.mul_(0.25)
                elif name.endswith((".self.query.weight", ".self.key.weight")):
                    weight.mul_(reading if name.startswith("text_encoder") else keen)
                elif name.endswith("position_embeddings.weight"):
                    weight.mul_(1.2)
        if edit:
            edit(model)

    return edited


def blip_matching(root: Path, *, seed: int = 0, edit: Edit | None = None, **save: Any) -> Path:
    """A BLIP checkpoint directory that says how well a text fits a picture."""

    def edited(model: Any) -> None:
        with torch.no_grad():  # the order of words is to weigh as much as which they are
            model.text_encoder.embeddings.position_embeddings.weight.mul_(2.0)
            for layer in model.text_encoder.encoder.layer:
                layer.attention.self.query.weight.mul_(2.0)
                layer.attention.self.key.weight.mul_(2.0)
                layer.crossattention.output.dense.weight.mul_(0.5)  # and words as much as the picture
        if edit:
            edit(model)

    return _blip(root, BlipForImageTextRetrieval, seed, edited, save)


def _blip(root: Path, kind: Any, seed: int, edit: Edit | None, save: dict[str, Any]) -> Path:
    tokenizer = wording.asked(root, side=SIDE).tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in wording.BERT_IDS.items()}
    text = {**TOWER, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": PLACES}
    config = BlipConfig(vision_config=VISION, text_config=text)
    torch.manual_seed(seed)
    model = kind(config).eval()
    _sharpen(model)
    if edit:
        edit(model)
    model.save_pretrained(root, **save)
    return root


def blip2(root: Path, *, seed: int = 0, edit: Edit | None = None, **save: Any) -> Path:
    """A BLIP-2 checkpoint directory with OPT."""
    tokenizer = wording.queried(root, side=SIDE, tokens=QUERIES).tokenizer
    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": 1}
    text = OPTConfig(
        **{**{"hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 3, "num_attention_heads": 4}, **ids},
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.convert_tokens_to_ids("\u010a"),  # the line feed in the bytes' own letters
        max_position_embeddings=256,
    )
    former = {**TOWER, "vocab_size": 16, "encoder_hidden_size": TOWER["hidden_size"]}
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION).to_dict(),
        qformer_config=Blip2QFormerConfig(**former).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(config).eval()
    _sharpen(model)
    if edit:
        edit(model)
    model.save_pretrained(root, **save)
    return root


def _sharpen(model: Any) -> None:
    """Weights as large as after training: pictures, places and words all move what is said."""
    sizes = {"word_embeddings": 0.25, "position_embeddings": 0.25, "patch_embedding": 0.1}
    sizes |= {"embed_tokens": 0.05, "embed_positions": 0.3}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            owner = name.split(".")[-2] if "." in name else name
            if name.endswith(("position_embedding", "class_embedding")):
                weight.mul_(0.4 / max(float(weight.std()), 1e-12))
            elif name == "query_tokens":
                weight.normal_(0.0, 1.0)
            elif owner in sizes or (weight.ndim == 2 and owner != "decoder"):
                size = sizes.get(owner, weight.shape[-1] ** -0.5)
                if "crossattention" in name and owner in ("query", "key"):
                    size *= 3  # a picture's patches are told apart
                weight.mul_(size / max(float(weight.std()), 1e-12))
        if hasattr(model, "language_model"):
            model.language_model.model.decoder.final_layer_norm.weight.add_(4.0)


def outliers(model: Any) -> None:
    """Channels 64 times as large behind some norms, and weights that undo it: the same function."""
    with torch.no_grad():
        for layer in model.vision_model.encoder.layers:
            _enlarge(layer.layer_norm1, (layer.self_attn.qkv,))
            _enlarge(layer.layer_norm2, (layer.mlp.fc1,))
        if hasattr(model, "language_model"):
            for layer in model.language_model.model.decoder.layers:
                attention = layer.self_attn
                _enlarge(layer.self_attn_layer_norm, (attention.q_proj, attention.k_proj, attention.v_proj))
                _enlarge(layer.final_layer_norm, (layer.fc1,))


def _enlarge(norm: Any, readers: tuple[Any, ...]) -> None:
    norm.weight[::16] *= 64
    norm.bias[::16] *= 64
    for reader in readers:
        reader.weight[:, ::16] /= 64
