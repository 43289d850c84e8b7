"""Small checkpoints of upstream architectures, saved with upstream code: fixed seeds, weights scaled."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTokenizer,
)

from edgevlm.data.pictures import TEXTS

transformers.utils.logging.disable_progress_bar()
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
IMAGE = 48
Edit = Callable[[Any], None] | None
TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def clip(root: Path, *, seed: int = 0, edit: Edit = None, **save: Any) -> Path:
    """A CLIP checkpoint directory; `edit` may change the model before it is saved."""
    tokenizer = clip_tokenizer()
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, "projection_dim": 48, **TOWER}
    vision = {"image_size": IMAGE, "patch_size": 8, "projection_dim": 48, **TOWER}
    torch.manual_seed(seed)
    return _save_clip(root, tokenizer, text, vision, edit, save)


def clip_b32(root: Path) -> Path:
    """The size of CLIP ViT-B/32, weights at random; its tokenizer is a small one."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(model_max_length=77)
    tower: dict[str, Any] = {"num_hidden_layers": 12, "projection_dim": 512}
    text = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "vocab_size": 49408, **tower}
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "image_size": 224, **tower}
    return _save_clip(root, tokenizer, text, {**vision, "patch_size": 32}, None, {})


def _save_clip(
    root: Path, tokenizer: Any, text: dict[str, Any], vision: dict[str, Any], edit: Edit, save: dict[str, Any]
) -> Path:
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 1}
    width = vision["projection_dim"]
    model = CLIPModel(CLIPConfig(text_config={**text, **ids}, vision_config=vision, projection_dim=width)).eval()
    _sharpen(model)
    if edit:
        edit(model)
    model.save_pretrained(root, **save)
    tokenizer.save_pretrained(root)
    side = vision["image_size"]
    size = {"shortest_edge": side}
    CLIPImageProcessorPil(size=size, crop_size={"height": side, "width": side}).save_pretrained(root)
    return root


def siglip(root: Path, *, seed: int = 0, masked: bool = False, edit: Edit = None, **save: Any) -> Path:
    """A SigLIP checkpoint directory; `masked` has its tokenizer ask for an attention mask."""
    tokenizer = _siglip_tokenizer(root, masked)
    text = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 40, "projection_size": 64, **TOWER}
    vision = {"image_size": IMAGE, "patch_size": 8, **TOWER}
    torch.manual_seed(seed)
    return _save_siglip(root, tokenizer, text, vision, edit, save)


def siglip_b16(root: Path) -> Path:
    """The size of SigLIP-B/16 at 224 pixels, weights at random; its tokenizer is a small one."""
    torch.manual_seed(0)
    tokenizer = _siglip_tokenizer(root, masked=False, model_max_length=64)
    tower = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    text = {"vocab_size": 32000, "max_position_embeddings": 64, "projection_size": 768, **tower}
    return _save_siglip(root, tokenizer, text, {"image_size": 224, "patch_size": 16, **tower}, None, {})


def _save_siglip(
    root: Path, tokenizer: Any, text: dict[str, Any], vision: dict[str, Any], edit: Edit, save: dict[str, Any]
) -> Path:
    text |= {"bos_token_id": None, "eos_token_id": 1}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-1.5)
    _sharpen(model)
    if edit:
        edit(model)
    model.save_pretrained(root, **save)
    tokenizer.save_pretrained(root)
    side = vision["image_size"]
    SiglipImageProcessorPil(size={"height": side, "width": side}).save_pretrained(root)
    return root


def _sharpen(model: Any) -> None:
    """Make places, words and patches weigh as much as they do after training, so that every input matters."""
    factors = {
        "text_model.embeddings.position_embedding": 3.0,
        "text_model.embeddings.token_embedding": 3.0,
        "vision_model.embeddings.position_embedding": 6.0,
        "vision_model.embeddings.patch_embedding": 3.0,
    }
    with torch.no_grad():
        for name, weight in model.named_parameters():
            looks = name.endswith(("q_proj.weight", "k_proj.weight")) and isinstance(model, CLIPModel)
            weight.mul_(3.0 if looks else factors.get(name.removesuffix(".weight"), 1.0))


def clip_tokenizer(**more: Any) -> Any:
    """Byte-level BPE over the built-in texts; `more` for the tokenizer's class."""
    bare = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bare.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(False)])
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=bytes_, end_of_word_suffix="</w>", show_progress=False
    )
    bare.train_from_iterator([text.lower() for text in TEXTS], trainer)
    merges = [tuple(pair) for pair in json.loads(bare.to_str())["model"]["merges"]]
    words = [*bytes_, *(f"{one}</w>" for one in bytes_), *("".join(pair) for pair in merges), BEGIN, END]
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, **{"model_max_length": 32, **more})


def _siglip_tokenizer(root: Path, masked: bool, **more: Any) -> Any:
    """A unigram model over the built-in texts."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text.lower() for text in TEXTS] * 4),
        model_writer=written,
        vocab_size=220,
        model_type="unigram",
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    root.mkdir(parents=True, exist_ok=True)
    path = root / "spiece.model"
    path.write_bytes(written.getvalue())
    names = ["input_ids", "attention_mask"] if masked else ["input_ids"]
    return SiglipTokenizer(str(path), **{"model_max_length": 40, **more}, model_input_names=names)


def outliers(model: Any) -> None:
    """Channels 64 times as large behind some norms, and weights that undo it: the same function."""
    with torch.no_grad():
        for tower in (model.vision_model, model.text_model):
            for layer in tower.encoder.layers:
                norms = ((layer.layer_norm1, ("q_proj", "k_proj", "v_proj")), (layer.layer_norm2, ("fc1",)))
                for norm, readers in norms:
                    norm.weight[::16] *= 64
                    norm.bias[::16] *= 64
                    for name in readers:
                        owner = layer.self_attn if name.endswith("proj") else layer.mlp
                        getattr(owner, name).weight[:, ::16] /= 64


def photographs() -> list[Path]:
    """The pictures that ship with scikit-image and scikit-learn, found without importing either."""
    result: list[Path] = []
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = find_spec(package)
        assert spec is not None and spec.submodule_search_locations, f"{package} is in the extra dev"
        root = Path(spec.submodule_search_locations[0]) / folder
        result += [path for path in sorted(root.iterdir()) if path.suffix in (".png", ".jpg")]
    return result
