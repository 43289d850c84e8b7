"""ACT, from a LeRobot policy directory: one residual net per frame, one transformer over all of them.

In int8 some layers stay in fp32: the first convolution (three channels fill no integer kernel), and the ends of the
transformer, where a robot's state comes in and its action goes out: a few numbers each, so nothing would be saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgevlm.bundle import file_sha256
from edgevlm.errors import CheckpointError, FamilyError
from edgevlm.manifest.contract import Contract
from edgevlm.manifest.drivers import FuseArgs, FuseSpec
from edgevlm.manifest.image_ops import ImageOp, Normalize
from edgevlm.manifest.stages import Port
from edgevlm_export.checkpoint import CONFIG, WEIGHTS, Checkpoint
from edgevlm_export.families.common.lerobot import (
    STATE,
    Features,
    Normalization,
    is_statistic,
    read_features,
    read_normalization,
)
from edgevlm_export.families.common.robot_file import contract_of, missing, read_robot, template
from edgevlm_export.models.act import (
    ACTIVATIONS,
    BLOCKS,
    Act,
    ActConfig,
    ActHead,
    ActVision,
    map_size,
    own_names,
)
from edgevlm_export.prepared import Prepared
from edgevlm_export.stage_graph import PolicyGraph, Reference, Stage, WindowInputs

# config.json's key -> what it must be, and why
FIXED: Mapping[str, tuple[Any, str]] = {
    "n_obs_steps": (1, "LeRobot's own ACT takes one observation as well"),
    "replace_final_stride_with_dilation": (False, "these backbones have no dilated form"),
    "use_peft": (False, "merge the adapter into the weights first"),
    "temporal_ensemble_coeff": (
        None,
        "averaging chunks is the robot's side: set it to null, and give the executor that averages this number",
    ),
}
TRAINING = ("vae_encoder",)  # parts that only training needs


def prepare(checkpoint: Checkpoint, robot: Path | None) -> Prepared:
    """A trained ACT, to be cut into vision and head.

    Raises:
        CheckpointError: a file is missing, corrupt, or does not fit the others.
        FamilyError: a variant that is not supported; the message names the field.
        ContractError: no robot file, or one that does not fit the policy.
    """
    config, features, shape, used = _read(checkpoint)
    if robot is None:
        raise missing(checkpoint)
    described = read_robot(robot)
    normalization = read_normalization(checkpoint, config)
    state = normalization.observed(STATE, "STATE", features.state) if features.state else None
    action = (normalization.acted(features.action), shape.chunk_steps, used)
    contract = contract_of(robot, described, features, state, action)
    named = {camera.feature: name for name, camera in described.cameras.items()}
    preprocess = {named[key]: _normalize(normalization, key) for key in features.cameras}
    sha256 = checkpoint.sha256((CONFIG, WEIGHTS, *normalization.files), [("robot", file_sha256(robot))])

    def load() -> PolicyGraph:
        return _graph(_load(checkpoint, shape, checkpoint.weights()), contract, features, named, preprocess, sha256)

    return Prepared(task="policy", load=load, contract=contract)


def robot_template(checkpoint: Checkpoint) -> str:
    """The robot file of this policy, to be filled in. Raises CheckpointError and FamilyError, as `prepare`."""
    _, features, _, used = _read(checkpoint)
    return template(checkpoint, features, used)


def _read(checkpoint: Checkpoint) -> tuple[Mapping[str, Any], Features, ActConfig, int]:
    """config.json, and what it says: features, shape, steps of a chunk that the policy uses."""
    config, where = checkpoint.config, checkpoint / CONFIG
    _check(where, config)
    features = read_features(where, config)
    return config, features, *_shape(where, config, features)


def _graph(
    model: Act,
    contract: Contract,
    features: Features,
    named: Mapping[str, str],
    preprocess: Mapping[str, tuple[ImageOp, ...]],
    sha256: str,
) -> PolicyGraph:
    vision = _vision_names(features, named)
    return PolicyGraph(
        family="act",
        stages=(*_vision(model, features, named, vision), _head(model, contract, features, named)),
        driver=FuseSpec(args=FuseArgs(vision=vision, text=None, pool=None, head="head")),
        preprocess=preprocess,
        tokenizer=None,
        contract=contract,
        reference=_reference(model, tuple(named[key] for key in features.cameras)),
        source_sha256=sha256,
    )


def _check(where: Path, config: Mapping[str, Any]) -> None:
    for key, (wanted, why) in FIXED.items():
        if (found := config.get(key, wanted)) != wanted:
            raise FamilyError(f"{where}: {key}: expected {wanted!r}, got {found!r:.80}; {why}")
    for key, known in (("vision_backbone", BLOCKS), ("feedforward_activation", ACTIVATIONS)):
        if config.get(key) not in known:
            raise FamilyError(f"{where}: {key}: expected one of {sorted(known)}, got {config.get(key)!r:.80}")


def _shape(where: Path, config: Mapping[str, Any], features: Features) -> tuple[ActConfig, int]:
    """(the architecture, how many rows of a chunk the policy uses)."""
    numbers = {}
    for key in (
        *("dim_model", "n_heads", "dim_feedforward", "n_encoder_layers", "n_decoder_layers"),
        *("latent_dim", "chunk_size", "n_action_steps"),
    ):
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 20:
            raise CheckpointError(
                f"{where}: {key}: expected a whole number over 0, got {value!r:.80}; correct the file"
            )
        numbers[key] = value
    if numbers["n_action_steps"] > numbers["chunk_size"]:
        raise CheckpointError(
            f"{where}: n_action_steps: expected at most the chunk's {numbers['chunk_size']} rows, got "
            f"{numbers['n_action_steps']}; correct the file"
        )
    if numbers["dim_model"] % 4 or numbers["dim_model"] % numbers["n_heads"]:
        raise CheckpointError(
            f"{where}: dim_model: expected a multiple of 4 and of n_heads {numbers['n_heads']}, got "
            f"{numbers['dim_model']}; correct the file"
        )
    shape = ActConfig(
        backbone=config["vision_backbone"],
        width=numbers["dim_model"],
        heads=numbers["n_heads"],
        hidden=numbers["dim_feedforward"],
        activation=config["feedforward_activation"],
        encoder_layers=numbers["n_encoder_layers"],
        decoder_layers=numbers["n_decoder_layers"],
        pre_norm=bool(config.get("pre_norm", False)),
        latent=numbers["latent_dim"],
        chunk_steps=numbers["chunk_size"],
        state_size=features.state,
        action_size=features.action,
    )
    return shape, numbers["n_action_steps"]


def _load(checkpoint: Checkpoint, shape: ActConfig, weights: Mapping[str, Tensor]) -> Act:
    model = Act(shape)
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    try:
        kept = own_names({name: value for name, value in weights.items() if not is_statistic(name)})
        kept = {name: value for name, value in kept.items() if not name.startswith(TRAINING)}
        model.load_state_dict({**counters, **kept})
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint / WEIGHTS}: the tensors do not fit {CONFIG}: {str(error)[:300]}; take both from one training"
        ) from error
    return model.eval().requires_grad_(False)


def _normalize(normalization: Normalization, feature: str) -> tuple[ImageOp, ...]:
    shift = normalization.observed(feature, "VISUAL", 3)
    mean, std = (tuple(map(float, row)) for row in (shift.offset, shift.scale))
    return (Normalize(mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]), rounding="each"),)


def _vision_names(features: Features, named: Mapping[str, str]) -> dict[str, str]:
    """Camera -> stage; cameras of one size share a stage, as they share the weights."""
    if len(set(features.cameras.values())) == 1:
        return {named[key]: "vision" for key in features.cameras}
    return {named[key]: f"vision_{named[key]}" for key in features.cameras}


def _port(name: str, kind: Any, *dims: int) -> Port:
    return Port(name=name, dtype="float32", shape=(1, *dims), kind=kind)


def _example(ports: tuple[Port, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.zeros([int(dim) for dim in port.shape]) for port in ports)


def _vision(model: Act, features: Features, named: Mapping[str, str], vision: Mapping[str, str]) -> tuple[Stage, ...]:
    stages: dict[str, Stage] = {}
    for key, (height, width) in features.cameras.items():
        inputs = (_port("pixels", "pixels", 3, height, width),)
        name = vision[named[key]]
        stages[name] = Stage(
            name=name,
            module=ActVision(model).eval(),
            inputs=inputs,
            outputs=(_port("features", "features", model.config.width, *map_size(height, width)),),
            example=_example(inputs),
            quant_exclude=("backbone.conv1.weight",),
            frame_cache="frame",
        )
    return tuple(stages.values())


def _head(model: Act, contract: Contract, features: Features, named: Mapping[str, str]) -> Stage:
    """The transformer; without a pool it takes the features of each camera's only slot itself."""
    sizes = [map_size(*size) for size in features.cameras.values()]
    inputs = (
        *((_port("state", "state", features.state),) if features.state else ()),
        *(
            _port(f"{named[key]}_0", "features", model.config.width, *size)
            for key, size in zip(features.cameras, sizes, strict=True)
        ),
    )
    return Stage(
        name="head",
        module=ActHead(model, sizes).eval(),
        inputs=inputs,
        outputs=(_port("chunk", "action", contract.action.steps, features.action),),
        example=_example(inputs),
        quant_exclude=("state_proj.weight", "action_head.weight"),
    )


def _reference(model: Act, cameras: tuple[str, ...]) -> Reference:
    def run(window: WindowInputs) -> dict[str, NDArray[np.float32]]:
        pixels = [torch.from_numpy(window.pixels[camera]) for camera in cameras]
        with torch.no_grad():
            chunk = model(pixels, None if window.state is None else torch.from_numpy(window.state))
        return {"chunk": chunk.numpy()}

    return run
