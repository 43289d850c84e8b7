"""Small checkpoints of chat models, saved with upstream code: fixed seeds, weights scaled so that inputs matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from support import wording
from transformers import (
    CLIPVisionConfig,
    Gemma2Config,
    GemmaConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

transformers.utils.logging.disable_progress_bar()
SIDE, PATCH = 32, 8
TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
VISION = {"image_size": SIDE, "patch_size": PATCH, **TOWER}
TEXT = {**TOWER, "num_key_value_heads": 2, "max_position_embeddings": 512}
WINDOW = 8  # tokens, of the layers that look back a little only
Edit = Callable[[Any], None]


def llava(root: Path, *, seed: int = 0, edit: Edit | None = None, **save: Any) -> Path:
    """A LLaVA 1.5 checkpoint directory; `edit` may change the model before it is saved."""
    tokenizer = wording.patched(root, side=SIDE, patch=PATCH).tokenizer
    text = LlamaConfig(**TEXT, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=2)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION).to_dict(),
        text_config=text.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    return _saved(root, LlavaForConditionalGeneration, config, seed, edit, save)


def smolvlm(root: Path, *, seed: int = 0, edit: Edit | None = None, **save: Any) -> Path:
    """A SmolVLM checkpoint directory."""
    return _tiled(root, SmolVLMForConditionalGeneration, SmolVLMConfig, seed, edit, save)


def idefics3(root: Path, *, seed: int = 0, edit: Edit | None = None, **save: Any) -> Path:
    """An Idefics3 checkpoint directory."""
    return _tiled(root, Idefics3ForConditionalGeneration, Idefics3Config, seed, edit, save)


def _tiled(root: Path, model: Any, config: Any, seed: int, edit: Edit | None, save: dict[str, Any]) -> Path:
    tokenizer = wording.tiled(root, side=SIDE, tokens=4).tokenizer
    ids = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 2}
    text = LlamaConfig(**TEXT, vocab_size=len(tokenizer), **ids)
    created = config(
        vision_config=VISION,
        text_config=text.to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=True,
    )
    return _saved(root, model, created, seed, edit, save)


def paligemma(root: Path, *, seed: int = 7, edit: Edit | None = None, **save: Any) -> Path:
    """A PaliGemma checkpoint directory."""
    return _prefixed(root, GemmaConfig, {"head_dim": 16}, seed, edit, save)


def paligemma2(root: Path, *, seed: int = 7, edit: Edit | None = None, **save: Any) -> Path:
    """A PaliGemma 2 checkpoint directory: every second layer sees a few tokens only, scores and logits are squashed."""
    more = {
        **{"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW},
        **{"attn_logit_softcapping": 3.0, "final_logit_softcapping": 8.0},
    }
    return _prefixed(root, Gemma2Config, more, seed, edit, save)


def _prefixed(root: Path, kind: Any, more: dict[str, Any], seed: int, edit: Edit | None, save: dict[str, Any]) -> Path:
    tokenizer = wording.prefixed(root, side=SIDE, tokens=16).tokenizer
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    text = kind(**TEXT, **more, vocab_size=len(tokenizer), **ids)
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**VISION, vision_use_head=False).to_dict(),
        text_config=text.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=64,
        hidden_size=64,
        **ids,
    )
    return _saved(root, PaliGemmaForConditionalGeneration, config, seed, edit, save)


def _saved(root: Path, kind: Any, config: Any, seed: int, edit: Edit | None, save: dict[str, Any]) -> Path:
    torch.manual_seed(seed)
    model = kind(config).eval()
    _sharpen(model)
    if edit:
        edit(model)
    model.save_pretrained(root, **save)
    return root


def _sharpen(model: Any) -> None:
    """Weights as large as after training: pictures, places and words all move what is said."""
    tied = model.config.tie_word_embeddings  # words weigh less then, else the last one is said again and again
    sizes = {"embed_tokens": 0.02 if tied else 0.12, "position_embedding": 0.4, "patch_embedding": 0.1, "lm_head": 0.25}
    language = getattr(model.model, "language_model", None) or model.model.text_model
    with torch.no_grad():
        for name, weight in model.named_parameters():
            owner = name.split(".")[-2]
            if owner in sizes or weight.ndim == 2:
                size = sizes.get(owner, weight.shape[-1] ** -0.5)
                weight.mul_(size / max(float(weight.std()), 1e-6))
        if tied:
            language.norm.weight.add_(8.0)
            language.embed_tokens.weight[model.config.image_token_id] = 0.0  # a picture's place is never said


def outliers(model: Any) -> None:
    """Channels 64 times as large behind some norms, and weights that undo it: the same function."""
    language = getattr(model.model, "language_model", None) or model.model.text_model
    vision = getattr(model.model, "vision_tower", None) or model.model.vision_model
    centred = model.config.model_type == "paligemma"  # its norms multiply by 1 + weight
    with torch.no_grad():
        for layer in language.layers:
            attention = layer.self_attn
            _enlarge(layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj), centred)
            last = getattr(layer, "pre_feedforward_layernorm", layer.post_attention_layernorm)
            _enlarge(last, (layer.mlp.gate_proj, layer.mlp.up_proj), centred)
        for layer in vision.encoder.layers:
            attention = layer.self_attn
            _enlarge(layer.layer_norm1, (attention.q_proj, attention.k_proj, attention.v_proj), False)
            _enlarge(layer.layer_norm2, (layer.mlp.fc1,), False)


def _enlarge(norm: Any, readers: tuple[Any, ...], centred: bool) -> None:
    shift = float(centred)
    norm.weight[::16] = (norm.weight[::16] + shift) * 64 - shift
    if getattr(norm, "bias", None) is not None:
        norm.bias[::16] *= 64
    for reader in readers:
        reader.weight[:, ::16] /= 64


def large(root: Path) -> Path:
    """A checkpoint of the size of SmolVLM-256M, weights at random; its tokenizer is a small one."""
    tokenizer = wording.tiled(root, side=512, longest=2048, tokens=64).tokenizer
    ids = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 2}
    text = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        vocab_size=49280,
        **ids,
    )
    observed = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = SmolVLMConfig(
        vision_config={**observed, "image_size": 512, "patch_size": 16},
        text_config=text.to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=4,
        tie_word_embeddings=True,
    )
    return _saved(root, SmolVLMForConditionalGeneration, config, 0, None, {})


def heavy(root: Path) -> Path:
    """A checkpoint whose decoder has more weights than one ONNX file can hold (2 GB), at random; little else."""
    tokenizer = wording.patched(root, side=SIDE, patch=PATCH).tokenizer
    text = LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=9,
        num_attention_heads=16,
        num_key_value_heads=16,
        max_position_embeddings=512,
        vocab_size=len(tokenizer),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION).to_dict(),
        text_config=text.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    return _saved(root, LlavaForConditionalGeneration, config, 0, None, {})
