"""SmolVLA, from a LeRobot policy directory: a picture's features, the observation read once, then a step of the noise.

In int8 the ends of the model stay in fp32, where a robot's state comes in and its action goes out: a few numbers each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgevlm.bundle import file_sha256
from edgevlm.errors import CheckpointError, ContractError, FamilyError
from edgevlm.manifest.contract import Contract
from edgevlm.manifest.drivers import DenoiseArgs, DenoiseSpec
from edgevlm.manifest.image_ops import ImageOp, Normalize, ResizeWithPad
from edgevlm.manifest.stages import Port
from edgevlm_export.checkpoint import CONFIG, WEIGHTS, Checkpoint
from edgevlm_export.families.common.chatting import embedding_table
from edgevlm_export.families.common.lerobot import STATE, Features, is_statistic, read_features, read_normalization
from edgevlm_export.families.common.lerobot_words import NAME, STEPS, Words, read_words
from edgevlm_export.families.common.robot_file import contract_of, missing, read_robot, template
from edgevlm_export.families.common.upstream import check_vocabulary
from edgevlm_export.families.smolvla_config import EMPTY, check, read_shape
from edgevlm_export.families.smolvlm import tower_stage
from edgevlm_export.models.smolvla import SmolVla, SmolVlaConfig, own_names
from edgevlm_export.models.smolvla_stages import PrefixEnter, StepEnter, prefix_chain, step_chain
from edgevlm_export.prepared import Prepared
from edgevlm_export.stage_graph import EMBEDDINGS, PolicyGraph, Reference, Stage, WindowInputs

EMBEDS, MASK, ROBOT = "embeds", "mask", "state"  # ports of the prefix; the others are called as the cameras
Size = tuple[int, int]


def prepare(checkpoint: Checkpoint, robot: Path | None) -> Prepared:
    """A trained SmolVLA, to be cut into vision, prefix and denoise.

    Raises:
        CheckpointError: a file is missing, corrupt, or does not fit the others; the model it was made from is nowhere.
        FamilyError: a variant that is not supported; the message names the field.
        ContractError: no robot file, or one that does not fit the policy.
    """
    config, features = _read(checkpoint)
    where = checkpoint / CONFIG
    words = read_words(checkpoint, config)
    shape, used = read_shape(where, config, features, words)
    if robot is None:
        raise missing(checkpoint)
    described = read_robot(robot)
    normalization = read_normalization(checkpoint, config, also=STEPS)
    for camera in features.cameras:
        if (mode := normalization.mode(camera, "VISUAL")) != "IDENTITY":
            raise FamilyError(
                f"{where}: normalization of VISUAL: expected IDENTITY for {camera!r}, got {mode!r}; train with "
                "pictures as is"
            )
    state = normalization.observed(STATE, "STATE", features.state)
    action = (normalization.acted(features.action), shape.chunk_steps, used)
    contract = contract_of(robot, described, features, state, action, words.instruction)
    named = {camera.feature: name for name, camera in described.cameras.items()}
    if clash := {EMBEDS, MASK, ROBOT} & set(named.values()):
        raise ContractError(f"robot file {robot}: cameras: {sorted(clash)} are names of other inputs; choose others")
    check_vocabulary(words.vlm, words.ids, shape.text.vocab_size)
    sizes = {named[key]: _seen(where, config, key, size, shape) for key, size in features.cameras.items()}
    inputs = _Inputs(
        sizes=sizes,
        preprocess={named[key]: _prepare(config) for key in features.cameras},
        columns=features.action,
        words=words,
        contract=contract,
        sha256=checkpoint.sha256(
            (CONFIG, WEIGHTS, *normalization.files),
            [*words.sha256, ("robot", file_sha256(robot))],
        ),
    )

    def load() -> PolicyGraph:
        return _graph(_load(checkpoint, shape, checkpoint.weights()), inputs)

    return Prepared(task="policy", load=load, contract=contract, tokenizer=words.tokenizer)


def robot_template(checkpoint: Checkpoint) -> str:
    """The robot file of this policy, to be filled in. Raises CheckpointError and FamilyError, as `prepare`."""
    config, features = _read(checkpoint)
    _, used = read_shape(checkpoint / CONFIG, config, features, read_words(checkpoint, config))
    return template(checkpoint, features, used)


def _read(checkpoint: Checkpoint) -> tuple[Mapping[str, Any], Features]:
    """config.json and the features that it names."""
    config, where = checkpoint.config, checkpoint / CONFIG
    check(where, config)
    empty = int(config.get("empty_cameras") or 0)
    return config, read_features(where, config, without={f"{EMPTY}{i}" for i in range(empty)})


class _Inputs(NamedTuple):
    """What the small files say.

    Attributes:
        sizes: camera -> the side of the square that the model sees of it.
        columns: numbers in an action.
    """

    sizes: Mapping[str, int]
    preprocess: Mapping[str, tuple[ImageOp, ...]]
    columns: int
    words: Words
    contract: Contract
    sha256: str


def _graph(model: SmolVla, inputs: _Inputs) -> PolicyGraph:
    sizes, contract = inputs.sizes, inputs.contract
    vision, stages = _vision(model, sizes)
    return PolicyGraph(
        family="smolvla",
        stages=(*stages, *_loop(model, contract, {name: _features_of(stages, vision[name]) for name in sizes})),
        driver=_driver(model.config, vision),
        preprocess=inputs.preprocess,
        tokenizer=inputs.words.tokenizer,
        contract=contract,
        reference=_reference(model, tuple(sizes), inputs.columns),
        embeddings=embedding_table(model.vlm.text_model.embed_tokens),
        source_sha256=inputs.sha256,
    )


def _features_of(stages: tuple[Stage, ...], name: str) -> Port:
    """The features that a stage puts out."""
    return next(stage.outputs[0] for stage in stages if stage.name == name)


def _driver(shape: SmolVlaConfig, vision: Mapping[str, str]) -> DenoiseSpec:
    args = DenoiseArgs(
        vision=vision, embeddings=EMBEDDINGS, prefix="prefix", step="denoise", steps=shape.steps, periods=shape.periods
    )
    return DenoiseSpec(args=args)


def _load(checkpoint: Checkpoint, shape: SmolVlaConfig, weights: Mapping[str, Tensor]) -> SmolVla:
    model = SmolVla(shape)
    try:
        kept = own_names({name: value for name, value in weights.items() if not is_statistic(name)})
        model.load_state_dict(kept, assign=True)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint / WEIGHTS}: the tensors do not fit {CONFIG} and the config of {NAME}: {str(error)[:300]}; "
            "take all from one training"
        ) from error
    return model.eval().requires_grad_(False)


def _seen(where: Path, config: Mapping[str, Any], feature: str, size: Size, shape: SmolVlaConfig) -> int:
    """The side of the square picture that the model sees of a camera."""
    target = config.get("resize_imgs_with_padding")
    width, height = target if target is not None else (size[1], size[0])
    cell = shape.vlm.vision_config.patch_size * shape.vlm.scale_factor
    if width != height or width % cell:
        what = "resize_imgs_with_padding" if target is not None else f"input_features: {feature}"
        raise FamilyError(
            f"{where}: {what}: expected a square whose side is a multiple of {cell}, which the vision model cuts into "
            f"cells, got {width}x{height}; set resize_imgs_with_padding and train again"
        )
    return int(width)


def _prepare(config: Mapping[str, Any]) -> tuple[ImageOp, ...]:
    half = (0.5, 0.5, 0.5)
    target = config.get("resize_imgs_with_padding")
    if target is None:
        return (Normalize(mean=half, std=half, rounding="each"),)
    return ResizeWithPad(width=target[0], height=target[1]), Normalize(scale=1.0, mean=half, std=half)


def _vision(model: SmolVla, sizes: Mapping[str, int]) -> tuple[dict[str, str], tuple[Stage, ...]]:
    """Camera -> stage, and the stages: cameras that are seen in one size share one, as they share the weights."""
    alike = len(set(sizes.values())) == 1
    names = {camera: "vision" if alike else f"vision_{camera}" for camera in sizes}
    scale = float(model.config.text.hidden_size**0.5)
    stages = {
        names[camera]: replace(
            tower_stage(model.vlm.vision_model, model.vlm.connector, side, scale),
            name=names[camera],
            frame_cache="frame",
        )
        for camera, side in sizes.items()
    }
    return names, tuple(stages.values())


def _port(name: str, kind: Any, *dims: int) -> Port:
    return Port(name=name, dtype="float32", shape=(1, *dims), kind=kind)


def _example(ports: tuple[Port, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.zeros([int(dim) for dim in port.shape]) for port in ports)


def _loop(model: SmolVla, contract: Contract, features: Mapping[str, Port]) -> tuple[Stage, Stage]:
    """What reads the observation, and what takes one step."""
    assert contract.instruction is not None and contract.state is not None
    config, words, state = model.config, contract.instruction.max_tokens, len(contract.state.fields)
    mask = _port(MASK, "mask", words)
    inputs = (
        *(port.model_copy(update={"name": camera}) for camera, port in features.items()),
        *(_port(EMBEDS, "embeds", words, config.text.hidden_size), mask, _port(ROBOT, "state", state)),
    )
    enter = PrefixEnter(model, [int(port.shape[1]) for port in features.values()], words, state)
    slot = (enter.pictures + words + 1, config.text.num_key_value_heads, config.text.head_dim)
    crossed = tuple(
        _port(f"cross_{what}_{i}", f"cross_{what}", *slot)
        for i in range(config.expert_layers)
        for what in ("key", "value")
    )
    chunk = (config.chunk_steps, config.action_columns)
    stepped = (_port("sample", "sample", *chunk), _port("time", "time", config.expert.hidden_size), mask, *crossed)
    first, second = (tuple(port.name for port in ports) for ports in (inputs, stepped))
    prefix = Stage(
        name="prefix",
        module=prefix_chain(model, enter, first, _example(inputs)),
        inputs=inputs,
        outputs=crossed,
        example=_example(inputs),
        quant_exclude=("enter/state_proj.weight",),
    )
    step = Stage(
        name="denoise",  # `step` is what profiles call the whole
        module=step_chain(model, StepEnter(model, enter.pictures, words), second, _example(stepped)),
        inputs=stepped,
        outputs=(_port("velocity", "velocity", *chunk),),
        example=_example(stepped),
        quant_exclude=("enter/action_in_proj.weight", "leave/action_out_proj.weight"),
    )
    return prefix, step


def _reference(model: SmolVla, cameras: tuple[str, ...], columns: int) -> Reference:
    def run(window: WindowInputs) -> dict[str, NDArray[np.float32]]:
        pictures = [torch.from_numpy(window.pixels[camera]) for camera in cameras]
        given = (window.ids, window.mask, window.state, window.noise)
        with torch.no_grad():
            chunk = model(pictures, *(torch.from_numpy(np.array(one)) for one in given))
        return {"chunk": chunk.numpy()[:, :, :columns]}

    return run
