"""Small checkpoints of upstream detectors that are told in words what to look for: fixed seeds, weights scaled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from support import hub
from support.hub import TOWER, clip_tokenizer

IMAGE, PATCH, TOKENS = 64, 8, 16  # 64 regions
HEADS = {
    **{f"{head}_head.dense{i}": 0.2 for head in ("box", "objectness") for i in (0, 1)},
    **{"box_head.dense2": 0.12, "objectness_head.dense2": 0.2, "class_head.dense0": 0.2},
    **{"class_head.logit_shift": 0.04, "class_head.logit_scale": 0.15},
}


def owlvit(root: Path, *, seed: int = 0, edit: Callable[[Any], None] | None = None, **save: Any) -> Path:
    """An OWL-ViT checkpoint directory; `edit` may change the model before it is saved."""
    return _save(root, "OwlViT", seed, edit, save)


def owlv2(root: Path, *, seed: int = 0, edit: Callable[[Any], None] | None = None, **save: Any) -> Path:
    """An OWLv2 checkpoint directory."""
    return _save(root, "Owlv2", seed, edit, save)


def _save(root: Path, kind: str, seed: int, edit: Callable[[Any], None] | None, save: dict[str, Any]) -> Path:
    tokenizer = clip_tokenizer(model_max_length=TOKENS, pad_token="!")
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": TOKENS, **TOWER, "hidden_size": 48}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vision = {"image_size": IMAGE, "patch_size": PATCH, **TOWER}
    config = getattr(transformers, f"{kind}Config")(
        text_config={**text, **ids}, vision_config=vision, projection_dim=48
    )
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
    _sharpen(model)
    if edit:
        edit(model)
    model.save_pretrained(root, **save)
    tokenizer.save_pretrained(root)
    size = {"height": IMAGE, "width": IMAGE}
    getattr(transformers, f"{kind}ImageProcessorPil")(size=size).save_pretrained(root)
    return root


def tower_of(model: Any) -> Any:
    """The two encoders of a detector."""
    return model.owlvit if hasattr(model, "owlvit") else model.owlv2


def _sharpen(model: Any) -> None:
    """Make places, words and patches weigh as much as they do after training; scores spread over 0..1."""
    factors = {
        "text_model.embeddings.position_embedding": 20.0,
        "text_model.embeddings.token_embedding": 20.0,
        "vision_model.embeddings.position_embedding": 20.0,
        "vision_model.embeddings.patch_embedding": 10.0,
    }
    with torch.no_grad():
        for name, weight in tower_of(model).named_parameters():
            looks = name.endswith(("q_proj.weight", "k_proj.weight"))
            weight.mul_(3.0 if looks else factors.get(name.removesuffix(".weight"), 1.0))
        for name, weight in model.named_parameters():
            weight.mul_(HEADS.get(name.removesuffix(".weight"), 1.0))
        model.class_head.logit_scale.bias.fill_(9.0)


def outliers(model: Any) -> None:
    """As `hub.outliers`, in both encoders."""
    hub.outliers(tower_of(model))
