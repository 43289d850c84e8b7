"""Small policies by LeRobot's own classes, with seeded weights, and observations for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_policy_config
from support.lerobot_setups import ACTION, SEED, STATE, TEXTS, Setup, camera
from support.seeded import sharpened, weights
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Idefics3ImageProcessor, Idefics3Processor, LlamaConfig, PreTrainedTokenizerFast, SmolVLMConfig

JOINTS = 5
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "act": {
        **{"chunk_size": 8, "n_action_steps": 5, "pretrained_backbone_weights": None},
        **{"dim_model": 32, "n_heads": 4, "dim_feedforward": 48, "n_vae_encoder_layers": 1, "latent_dim": 8},
    },
    "smolvla": {
        **{"chunk_size": 6, "n_action_steps": 4, "num_steps": 5, "max_state_dim": 8, "max_action_dim": 7},
        **{"num_vlm_layers": 4, "tokenizer_max_length": 32, "resize_imgs_with_padding": (32, 32)},
        "vlm_model_name": "vlm",
    },
}
BLOCK = {"act": 8, "smolvla": 4}  # pixels of one colour
EYES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
READER = {**EYES, "num_hidden_layers": 5, "num_key_value_heads": 2}


def config(setup: Setup) -> Any:
    """As a training run of LeRobot would have it."""
    visual = {camera(name): PolicyFeature(FeatureType.VISUAL, (3, *size)) for name, size in setup.cameras.items()}
    return make_policy_config(
        setup.type,
        device="cpu",
        input_features={STATE: PolicyFeature(FeatureType.STATE, (JOINTS,)), **visual},
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (JOINTS,))},
        normalization_mapping={kind: NormalizationMode(mode) for kind, mode in setup.modes.items()},
        **{**CONFIGS[setup.type], **setup.more},
    )


def build(setup: Setup) -> tuple[Any, dict[str, list[int]]]:
    """(the policy in float32 with seeded weights, the shapes of its tensors)."""
    policy = get_policy_class(setup.type)(config(setup)).float().eval()
    shapes = {key: list(value.shape) for key, value in policy.state_dict().items()}
    tensors = sharpened(weights(shapes)) if setup.type == "smolvla" else weights(shapes)
    policy.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()})
    return policy, shapes


def statistics(setup: Setup) -> dict[str, dict[str, torch.Tensor]]:
    """Of a data set that does not exist; no two numbers are alike."""
    cameras = [camera(name) for name in setup.cameras] if setup.type == "act" else []
    random = np.random.default_rng(3)
    created = {}
    for key in (STATE, *cameras, ACTION):
        shape = (3, 1, 1) if "images" in key else (JOINTS,)
        mean = random.uniform(0.3, 0.6, shape) if "images" in key else random.uniform(-1.0, 1.0, shape)
        std = random.uniform(0.15, 0.3, shape) if "images" in key else random.uniform(0.2, 0.9, shape)
        spread = {"mean": mean, "std": std, "min": mean - 2.1 * std, "max": mean + 1.7 * std}
        if "images" in key:
            spread |= {"min": np.full(shape, 0.02), "max": np.full(shape, 0.97)}
        if any("QUANTILE" in mode for mode in setup.modes.values()):
            spread |= {"q01": mean - 1.9 * std, "q10": mean - 1.2 * std}
            spread |= {"q90": mean + 1.1 * std, "q99": mean + 1.5 * std}
        created[key] = {name: torch.tensor(value, dtype=torch.float32) for name, value in spread.items()}
    return created


def picture(size: tuple[int, int], block: int, seed: int) -> np.ndarray[Any, Any]:
    """Blocks of colour with a slope over them: uint8 (H, W, 3)."""
    blocks = np.random.default_rng(seed).integers(0, 200, (size[0] // block, size[1] // block, 3))
    large = np.repeat(np.repeat(blocks, block, 0), block, 1)
    return (large + np.arange(size[1])[None, :, None] * 55 // size[1]).astype(np.uint8)


def observations(setup: Setup, steps: int) -> dict[str, np.ndarray[Any, Any]]:
    """`states` (N, S), `<camera>_<step>` (H, W, 3), and `texts` where the policy takes words."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "states": np.random.default_rng(9).uniform(-1.5, 1.5, (steps, JOINTS)).astype(np.float32)
    }
    if setup.type == "smolvla":
        arrays["texts"] = np.array(TEXTS)
    for step in range(steps):
        for place, (name, size) in enumerate(setup.cameras.items()):
            arrays[f"{name}_{step}"] = picture(size, BLOCK[setup.type], 10 * step + place)
    return arrays


def chunk(
    policy: Any, before: Any, after: Any, arrays: Mapping[str, np.ndarray[Any, Any]], step: int
) -> np.ndarray[Any, Any]:
    """What LeRobot answers, through its own pre- and postprocessor: (K, A)."""
    batch: dict[str, Any] = {STATE: torch.from_numpy(arrays["states"][step])[None]}
    for key in arrays:
        if key.endswith(f"_{step}"):
            image = torch.from_numpy(arrays[key]).type(torch.float32) / 255
            batch[camera(key.removesuffix(f"_{step}"))] = image.permute(2, 0, 1).contiguous()[None]
    noise = {}
    if "texts" in arrays:
        batch["task"] = str(arrays["texts"][step])
        shape = (1, policy.config.chunk_size, policy.config.max_action_dim)
        drawn = np.random.RandomState([SEED, step]).standard_normal(shape).astype(np.float32)
        noise = {"noise": torch.from_numpy(drawn)}
    with torch.no_grad():
        return np.asarray(after(policy.predict_action_chunk(before(batch), **noise))[0].numpy())


def write_vlm(folder: Path) -> None:
    """A vision-language model without weights: its config and its processor."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bare.decoder = decoders.ByteLevel()
    marks = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "global_image_token": "<global-img>",
    }
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", *marks.values(), "<end_of_utterance>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bare.train_from_iterator([*TEXTS[:2], "take the cup", "\n"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare, pad_token="<|im_end|>", eos_token="<end_of_utterance>", extra_special_tokens=marks
    )
    Idefics3Processor(Idefics3ImageProcessor(), tokenizer, chat_template="").save_pretrained(folder)
    text = LlamaConfig(**READER, vocab_size=len(tokenizer), rope_theta=500.0)
    SmolVLMConfig(
        vision_config={**EYES, "image_size": 32, "patch_size": 8},
        text_config=text.to_dict(),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        architectures=["SmolVLMForConditionalGeneration"],
    ).save_pretrained(folder)


def shapes_json(shapes: Mapping[str, list[int]]) -> str:
    """As the golden folders hold them."""
    return json.dumps(shapes, indent=1) + "\n"
