"""LeRobot policies of the tests, as data: what LeRobot's own code builds, saves and runs (tests/export/lerobot).

No import of LeRobot: its environment reads this as well as that of the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VERSION = "0.6.1"  # of LeRobot, which the environment of `make lerobot` has
STATE, ACTION = "observation.state", "action"
SEED, STEPS = 0, 3  # of the noise; observations of each policy
TEXTS = ("put the red cup on the plate", "open the left drawer and take the spoon", "öffne die Schublade 🥄")


def camera(name: str) -> str:
    """LeRobot's name of a camera's feature."""
    return f"observation.images.{name}"


def modes(every: str, **other: str) -> dict[str, str]:
    """How pictures, state and actions are normalized; `other` by kind."""
    return {**dict.fromkeys(("VISUAL", "STATE", "ACTION"), every), **other}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One policy.

    Attributes:
        cameras: name -> (height, width).
        modes: kind of feature -> normalization.
        more: what differs from the small configuration of its type.
        unlisted: features left out of the normalizer's `features`.
        chosen: `normalize_observation_keys`; None where the step has none.
        older: what config.json says in place of it; 0.6.1 computes so but neither saves nor reads it, 0.4.4 did.
    """

    type: str
    cameras: Mapping[str, tuple[int, int]]
    modes: Mapping[str, str]
    more: Mapping[str, Any] = field(default_factory=dict)
    unlisted: tuple[str, ...] = ()
    chosen: tuple[str, ...] | None = None
    older: Mapping[str, Any] = field(default_factory=dict)

    @property
    def edited(self) -> bool:
        """Whether the normalizer lists something else than LeRobot has it list."""
        return bool(self.unlisted) or self.chosen is not None

    @property
    def partly(self) -> bool:
        """Whether some of what goes in is not normalized; the action is turned back whatever is listed."""
        return self.chosen is not None or any(name != ACTION for name in self.unlisted)


WORDS = {"VISUAL": "IDENTITY"}  # SmolVLA scales pictures itself
# What tests/export/golden holds: the files and answers without the weights.
GOLDEN: Mapping[str, Setup] = {
    "act": Setup(
        type="act",
        cameras={"top": (96, 128), "wrist": (96, 128)},
        modes=modes("MEAN_STD"),
        more={"n_encoder_layers": 2},
    ),
    "act_other": Setup(
        type="act",
        cameras={"front": (64, 96), "side": (96, 64)},
        modes=modes("MIN_MAX"),
        more={
            "n_encoder_layers": 1,
            "n_decoder_layers": 2,
            "pre_norm": True,
            "use_vae": False,
            "feedforward_activation": "gelu",
            "vision_backbone": "resnet34",
        },
    ),
    "smolvla": Setup(type="smolvla", cameras={"top": (48, 64), "wrist": (40, 28)}, modes=modes("MEAN_STD", **WORDS)),
    "smolvla_other": Setup(
        type="smolvla",
        cameras={"front": (24, 40)},
        modes=modes("MIN_MAX", **WORDS),
        more={
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
    "smolvla_few": Setup(
        type="smolvla",
        cameras={"front": (32, 32)},
        modes=modes("MEAN_STD", **WORDS),
        more={"num_expert_layers": 2, "self_attn_every_n_layers": 0},
        older={"resize_imgs_with_padding": None},
    ),
}

ONE = {"top": (96, 128)}
TWO = {"top": (96, 128), "wrist": (96, 128)}
SMALL = {"top": (48, 64)}
# Further ones, which are saved with their weights, read again by LeRobot and exported: make lerobot.
OTHER: Mapping[str, Setup] = {
    "act_quantiles": Setup(type="act", cameras=ONE, modes=modes("QUANTILES")),
    "act_quantile10": Setup(type="act", cameras=ONE, modes=modes("QUANTILE10", VISUAL="MEAN_STD")),
    "act_mixed": Setup(type="act", cameras=TWO, modes=modes("MEAN_STD", VISUAL="MIN_MAX", ACTION="QUANTILES")),
    "act_identity": Setup(type="act", cameras=ONE, modes=modes("IDENTITY")),
    "act_camera_unlisted": Setup(type="act", cameras=TWO, modes=modes("MEAN_STD"), unlisted=(camera("wrist"),)),
    "act_state_unlisted": Setup(type="act", cameras=ONE, modes=modes("MIN_MAX"), unlisted=(STATE,)),
    "act_action_unlisted": Setup(type="act", cameras=ONE, modes=modes("MEAN_STD"), unlisted=(ACTION,)),
    "act_keys_chosen": Setup(type="act", cameras=TWO, modes=modes("MEAN_STD"), chosen=(STATE, camera("top"))),
    "smolvla_quantiles": Setup(type="smolvla", cameras=SMALL, modes=modes("QUANTILES", **WORDS)),
    "smolvla_quantile10": Setup(type="smolvla", cameras=SMALL, modes=modes("QUANTILE10", **WORDS)),
    "smolvla_state_unlisted": Setup(type="smolvla", cameras=SMALL, modes=modes("MEAN_STD", **WORDS), unlisted=(STATE,)),
    "smolvla_keys_chosen": Setup(
        type="smolvla",
        cameras={"top": (48, 64), "wrist": (40, 28)},
        modes=modes("MIN_MAX", **WORDS),
        chosen=(camera("top"),),
    ),
}
SETUPS: Mapping[str, Setup] = {**GOLDEN, **OTHER}
