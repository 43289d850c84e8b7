"""Write tests/export/golden/smolvla*: what LeRobot itself answers, and the small files it saves beside its weights.

Needs lerobot 0.4.4 in a venv of its own, which the tests do not, and beside it the transformers (5) of the tests. With
4.57, which lerobot 0.4.4 asks for, most patches of a picture get the place of their neighbour in float32: its SmolVLM
counts places a hair too low, which was mended later (docs/lerobot.md); LeRobot since 0.5 runs with 5. Then
`PYTHONPATH=tests python tests/export/golden/make_smolvla.py`, in float32. The weights are not kept: `support.seeded`
makes them again from the names and shapes in tensors.json. Commit what this writes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from support.seeded import sharpened, weights
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Idefics3ImageProcessor, Idefics3Processor, LlamaConfig, PreTrainedTokenizerFast, SmolVLMConfig

# Other policies of lerobot 0.4.4 do not import beside transformers 5, so the package's own list of them is passed over.
_package = ModuleType("lerobot.policies")
_package.__path__ = [str(Path(find_spec("lerobot").submodule_search_locations[0]) / "policies")]  # type: ignore[union-attr, index]
sys.modules["lerobot.policies"] = _package
FeatureType, NormalizationMode, PolicyFeature = (
    getattr(import_module("lerobot.configs.types"), name)
    for name in ("FeatureType", "NormalizationMode", "PolicyFeature")
)
SmolVLAConfig = import_module("lerobot.policies.smolvla.configuration_smolvla").SmolVLAConfig
SmolVLAPolicy = import_module("lerobot.policies.smolvla.modeling_smolvla").SmolVLAPolicy
make_processors = import_module("lerobot.policies.smolvla.processor_smolvla").make_smolvla_pre_post_processors

HERE = Path(__file__).parent
VLM = "smolvla_vlm"  # the folder of the config and the tokenizer that all cases have
JOINTS, STEPS, SEED = 5, 3, 0
TEXTS = ("put the red cup on the plate", "open the left drawer and take the spoon", "öffne die Schublade 🥄")
EYES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = {**EYES, "num_hidden_layers": 5, "num_key_value_heads": 2}
COMMON = {
    **{"chunk_size": 6, "n_action_steps": 4, "num_steps": 5, "max_state_dim": 8, "max_action_dim": 7},
    **{"num_vlm_layers": 4, "tokenizer_max_length": 32, "resize_imgs_with_padding": (32, 32), "device": "cpu"},
}
# name -> (size of each camera, normalization of state and action, what differs from COMMON)
CASES: dict[str, Any] = {
    "smolvla": ({"top": (48, 64), "wrist": (40, 28)}, "MEAN_STD", {}),
    "smolvla_other": (
        {"front": (24, 40)},
        "MIN_MAX",
        {
            "attention_mode": "self_attn",
            "add_image_special_tokens": True,
            "empty_cameras": 1,
            "prefix_length": 48,
            "num_vlm_layers": 3,
            "num_steps": 10,
            "expert_width_multiplier": 0.5,
            "pad_language_to": "max_length",
        },
    ),
    "smolvla_few": (
        {"front": (32, 32)},
        "MEAN_STD",
        {"num_expert_layers": 2, "self_attn_every_n_layers": 0, "resize_imgs_with_padding": None},
    ),
}


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
    words = LlamaConfig(**WORDS, vocab_size=len(tokenizer), rope_theta=500.0)
    config = SmolVLMConfig(
        vision_config={**EYES, "image_size": 32, "patch_size": 8},
        text_config=words.to_dict(),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        architectures=["SmolVLMForConditionalGeneration"],
    )
    config.save_pretrained(folder)


def config(cameras: dict[str, tuple[int, int]], mode: str, more: dict[str, Any]) -> Any:
    """As a training run of LeRobot would have it."""
    visual = {
        f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, *size)) for name, size in cameras.items()
    }
    chosen = NormalizationMode(mode)
    return SmolVLAConfig(
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (JOINTS,)), **visual},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (JOINTS,))},
        normalization_mapping={"VISUAL": NormalizationMode.IDENTITY, "STATE": chosen, "ACTION": chosen},
        vlm_model_name="vlm",
        **{**COMMON, **more},
    )


def statistics() -> dict[str, dict[str, torch.Tensor]]:
    """Of a data set that does not exist; no two numbers are alike."""
    random = np.random.default_rng(3)
    found = {}
    for key in ("observation.state", "action"):
        mean, std = random.uniform(-1.0, 1.0, JOINTS), random.uniform(0.2, 0.9, JOINTS)
        spread = {"mean": mean, "std": std, "min": mean - 2.1 * std, "max": mean + 1.7 * std}
        found[key] = {name: torch.tensor(value, dtype=torch.float32) for name, value in spread.items()}
    return found


def picture(size: tuple[int, int], seed: int) -> np.ndarray[Any, Any]:
    """Blocks of colour with a slope over them: uint8 (H, W, 3)."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 200, (size[0] // 4, size[1] // 4, 3))
    whole = np.repeat(np.repeat(blocks, 4, 0), 4, 1)
    return (whole + np.arange(size[1])[None, :, None] * 55 // size[1]).astype(np.uint8)


def write(name: str) -> None:
    """One case; the working directory has the folder `vlm`."""
    cameras, mode, more = CASES[name]
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    policy = SmolVLAPolicy(config(cameras, mode, more)).float().eval()
    shapes = {key: list(value.shape) for key, value in policy.state_dict().items()}
    policy.load_state_dict({key: torch.from_numpy(value) for key, value in sharpened(weights(shapes)).items()})
    before, after = make_processors(policy.config, statistics())
    policy.config.save_pretrained(folder)
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    (folder / "tensors.json").write_text(json.dumps(shapes, indent=1) + "\n")
    kept: dict[str, Any] = {}
    states = np.random.default_rng(9).uniform(-1.5, 1.5, (STEPS, JOINTS)).astype(np.float32)
    chunks = []
    for step in range(STEPS):
        batch: dict[str, Any] = {"observation.state": torch.from_numpy(states[step])[None], "task": TEXTS[step]}
        for place, (camera, size) in enumerate(cameras.items()):
            image = kept[f"{camera}_{step}"] = picture(size, 10 * step + place)
            seen = torch.from_numpy(image).type(torch.float32) / 255
            batch[f"observation.images.{camera}"] = seen.permute(2, 0, 1).contiguous()[None]
        shape = (1, policy.config.chunk_size, policy.config.max_action_dim)
        noise = torch.from_numpy(np.random.RandomState([SEED, step]).standard_normal(shape).astype(np.float32))
        with torch.no_grad():
            chunks.append(after(policy.predict_action_chunk(before(batch), noise=noise))[0].numpy())
    np.savez_compressed(folder / "answers.npz", states=states, chunks=np.stack(chunks), texts=np.array(TEXTS), **kept)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        write_vlm(Path("vlm"))
        shutil.rmtree(HERE / VLM, ignore_errors=True)
        (HERE / VLM).mkdir()
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(Path("vlm") / file, HERE / VLM / file)
        for case in CASES:
            write(case)
