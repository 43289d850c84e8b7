"""What config.json of a SmolVLA may say, and what this version knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevlm.errors import CheckpointError, FamilyError
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.families.common.lerobot import Features
from edgevlm_export.families.common.lerobot_words import Words
from edgevlm_export.families.common.upstream import open_config, unsupported
from edgevlm_export.models.smolvla import SmolVlaConfig

EMPTY = "observation.images.empty_camera_"
# config.json's key -> what it must be, and why
FIXED: Mapping[str, tuple[Any, str]] = {
    "n_obs_steps": (1, "LeRobot's own SmolVLA takes one observation as well"),
    "use_peft": (False, "merge the adapter into the weights first"),
    "use_cache": (True, "without keys and values of the prefix its expert sees nothing"),
    "adapt_to_pi_aloha": (False, "a robot's joints are not converted here: train in the robot's own units"),
    "use_delta_joint_actions_aloha": (False, "LeRobot has not ported it either"),
}
NUMBERS = ("chunk_size", "n_action_steps", "max_state_dim", "max_action_dim", "num_steps")
ARCHITECTURE = "SmolVLMForConditionalGeneration"
ALLOWED = {
    "model_type": ("smolvlm",),
    "vision_config.num_channels": (3,),
    "text_config.model_type": ("llama",),
}


def check(where: Path, config: Mapping[str, Any]) -> None:
    """Refuse what this version does not know. Raises CheckpointError and FamilyError, with the field."""
    for key, (wanted, why) in FIXED.items():
        if (found := config.get(key, wanted)) != wanted:
            raise FamilyError(f"{where}: {key}: expected {wanted!r}, got {found!r:.80}; {why}")
    rtc = config.get("rtc_config")
    if isinstance(rtc, dict) and rtc.get("enabled", True):
        raise FamilyError(
            f"{where}: rtc_config: expected none that is enabled, got one; mixing a chunk with what is left of the "
            "last one is the robot's side: set it to null"
        )
    if config.get("attention_mode") not in ("cross_attn", "self_attn"):
        raise FamilyError(
            f"{where}: attention_mode: expected 'cross_attn' or 'self_attn', got {config.get('attention_mode')!r:.80}"
        )
    empty = config.get("empty_cameras", 0)
    if not isinstance(empty, int) or isinstance(empty, bool) or not 0 <= empty < 100:
        raise CheckpointError(f"{where}: empty_cameras: expected a whole number, got {empty!r:.80}; correct the file")
    target = config.get("resize_imgs_with_padding")
    if target is not None and not (isinstance(target, list) and len(target) == 2 and all(map(_is_size, target))):
        raise CheckpointError(
            f"{where}: resize_imgs_with_padding: expected [width, height] or null, got {target!r:.80}; correct the file"
        )


def read_shape(where: Path, config: Mapping[str, Any], features: Features, words: Words) -> tuple[SmolVlaConfig, int]:
    """(the architecture, how many rows of a chunk the policy uses). Raises CheckpointError and FamilyError."""
    for key in NUMBERS:
        if not _is_size(config.get(key)):
            raise CheckpointError(
                f"{where}: {key}: expected a whole number over 0, got {config.get(key)!r:.80}; correct the file"
            )
    _fits(where, config, features)
    vlm = _vlm(words.vlm)
    layers, beside = _layers(where, config, vlm)
    across, every = config["attention_mode"] == "cross_attn", _whole(where, config, "self_attn_every_n_layers")
    fake = ("fake_image_token", "<fake_token_around_image>")
    around = config.get("add_image_special_tokens") is True
    shape = SmolVlaConfig(
        vlm=vlm,
        layers=layers,
        expert_layers=beside,
        across=across,
        self_every=every,
        expert_width=_expert_width(where, config, vlm),
        state_columns=config["max_state_dim"],
        action_columns=config["max_action_dim"],
        chunk_steps=config["chunk_size"],
        steps=config["num_steps"],
        periods=_periods(where, config),
        before=(words.special(*fake), words.special("global_image_token", "<global-img>")) if around else (),
        after=(words.special(*fake),) if around else (),
        empty=int(config.get("empty_cameras") or 0),
    )
    _agree(where, shape)
    return shape, config["n_action_steps"]


def _fits(where: Path, config: Mapping[str, Any], features: Features) -> None:
    if config["n_action_steps"] > config["chunk_size"]:
        raise CheckpointError(
            f"{where}: n_action_steps: expected at most the chunk's {config['chunk_size']} rows, got "
            f"{config['n_action_steps']}; correct the file"
        )
    if not features.state:
        raise FamilyError(f"{where}: input_features: expected 'observation.state', got none; the model needs a state")
    for key, size in (("max_state_dim", features.state), ("max_action_dim", features.action)):
        if size > config[key]:
            raise CheckpointError(
                f"{where}: {key}: expected room for {size} numbers of the features, got {config[key]}; correct the file"
            )


def _vlm(folder: Checkpoint) -> Any:
    """The config of the vision-language model. Raises CheckpointError and FamilyError."""
    unsupported(folder, open_config(folder, ARCHITECTURE), ALLOWED)
    return folder.part("SmolVLMConfig")


def _layers(where: Path, config: Mapping[str, Any], vlm: Any) -> tuple[int, int]:
    """(layers of the language model, layers of the expert)."""
    wanted, beside = (_whole(where, config, key) for key in ("num_vlm_layers", "num_expert_layers"))
    known = int(vlm.text_config.num_hidden_layers)
    layers = min(wanted, known) if wanted > 0 else known
    beside = beside if beside > 0 else layers
    if beside > layers or layers % beside:
        raise FamilyError(
            f"{where}: num_expert_layers: expected a divisor of the language model's {layers} layers, got {beside}; "
            "LeRobot refuses it too"
        )
    return layers, beside


def _agree(where: Path, shape: SmolVlaConfig) -> None:
    """Refuse a mixture of layers with which LeRobot itself fails.

    It counts the expert's layers where it makes them, and the language model's where it runs them.
    """
    for layer in range(shape.layers):
        beside, across = shape.expert_of(layer), shape.attends_across(layer)
        if (beside is None and not across) or (beside is not None and shape.attends_across(beside) != across):
            raise FamilyError(
                f"{where}: num_expert_layers: expected as many as layers of the language model ({shape.layers}), or "
                f"attention across in all of them, got {shape.expert_layers} with self_attn_every_n_layers "
                f"{shape.self_every}; LeRobot cannot run it either"
            )


def _expert_width(where: Path, config: Mapping[str, Any], vlm: Any) -> float:
    factor = config.get("expert_width_multiplier")
    width = int(vlm.text_config.hidden_size * factor) if isinstance(factor, int | float) and 0 < factor < 100 else 0
    if not isinstance(factor, int | float) or width < 2 or width % 2:
        raise CheckpointError(
            f"{where}: expert_width_multiplier: expected a number that makes an even width of the language model's "
            f"{vlm.text_config.hidden_size}, got {factor!r:.40}; correct the file"
        )
    return float(factor)


def _periods(where: Path, config: Mapping[str, Any]) -> tuple[float, float]:
    shortest, longest = config.get("min_period"), config.get("max_period")
    if not isinstance(shortest, int | float) or not isinstance(longest, int | float) or not 0 < shortest < longest:
        raise CheckpointError(
            f"{where}: min_period, max_period: expected two numbers over 0, the second larger, got {shortest!r:.40} "
            f"and {longest!r:.40}; correct the file"
        )
    return float(shortest), float(longest)


def _whole(where: Path, config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 16:
        raise CheckpointError(f"{where}: {key}: expected a whole number, got {value!r:.80}; correct the file")
    return value


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20
