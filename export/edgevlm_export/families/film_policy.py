"""The film_policy family: image trunk per frame, text per instruction, pooling over the window, one head.

In int8 some layers stay in fp32: the first convolution (three channels fill no integer kernel), heat map to keypoint
(probabilities of hundreds of cells in 127 steps lose the small ones) and the dense layers (keypoints, summary, text and
state are one input and would share one scale; with one row at a time they gain no speed either). What each gains is
measured in docs/decisions/0009-what-stays-in-floats.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from edgevlm.errors import CheckpointError
from edgevlm.manifest.contract import CameraSpec, Contract
from edgevlm.manifest.image_ops import CenterCrop, ImageOp, Pad, Resize
from edgevlm.manifest.schema import FuseArgs, FuseSpec, Port
from edgevlm_export.checkpoint import CONFIG, TOKENIZER, WEIGHTS, Checkpoint
from edgevlm_export.models.film_policy import FilmPolicy, FilmPolicyConfig
from edgevlm_export.prepared import Prepared
from edgevlm_export.stage_graph import PolicyGraph, Reference, Stage, WindowInputs

Operations = Mapping[str, tuple[ImageOp, ...]]
HEAD_IN_FLOATS = ("trunk.0.weight", "trunk.2.weight", "chunk.weight", "path.weight", "step.weight")
OPERATIONS: TypeAdapter[dict[str, tuple[ImageOp, ...]]] = TypeAdapter(dict[str, tuple[ImageOp, ...]])


def prepare(checkpoint: Checkpoint) -> Prepared:
    """A trained film_policy, to be cut into vision, text, pool and head.

    Raises:
        CheckpointError: a file is missing, corrupt, or does not fit the others; the message names it.
    """
    config = checkpoint.config
    where = checkpoint / CONFIG
    try:
        shape = FilmPolicyConfig.from_dict(config["model"])
        contract = Contract.model_validate(config["contract"])
        preprocess = OPERATIONS.validate_python(config["preprocess"])
    except KeyError as error:
        raise CheckpointError(
            f"{where}: expected the keys model, contract and preprocess, missing {error}; train it again"
        ) from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {_first(error)}; correct the file or train it again") from error
    tokenizer, words = checkpoint / TOKENIZER, checkpoint.token_ids
    _check(where, shape, contract, preprocess)
    if words > shape.vocabulary:
        raise CheckpointError(
            f"{checkpoint / TOKENIZER}: expected at most the model's {shape.vocabulary} token ids, got {words}"
        )

    def load() -> PolicyGraph:
        return _graph(_load(checkpoint, shape), config, contract, preprocess, checkpoint)

    return Prepared(task="policy", load=load, contract=contract, tokenizer=tokenizer)


def _graph(
    model: FilmPolicy, config: Mapping[str, Any], contract: Contract, preprocess: Operations, checkpoint: Checkpoint
) -> PolicyGraph:
    shape = model.config
    vision = _vision_stages(shape)
    return PolicyGraph(
        family="film_policy",
        stages=(
            *(_vision(name, model, shape, camera) for name, camera in _once(vision)),
            _text(model, shape),
            _pool(model, shape),
            _head(model, shape),
        ),
        driver=FuseSpec(args=FuseArgs(vision=vision, text="text", pool="pool", head="head")),
        own_choice=True,
        preprocess=preprocess,
        tokenizer=checkpoint / TOKENIZER,
        contract=contract,
        reference=_reference(model),
        source_sha256=checkpoint.sha256((CONFIG, WEIGHTS, TOKENIZER)),
        extensions=config.get("extensions", {}),
    )


def _load(checkpoint: Checkpoint, shape: FilmPolicyConfig) -> FilmPolicy:
    model = FilmPolicy(shape)
    try:
        model.load_state_dict(checkpoint.weights())
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint / WEIGHTS}: the tensors do not fit {CONFIG}: {str(error)[:300]}; take both from one training"
        ) from error
    return model.eval().requires_grad_(False)


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    fault = error.errors()[0]
    return f"at {'.'.join(map(str, fault['loc']))!r}: {fault['msg']} (got {str(fault['input'])[:80]})"


def _check(where: Path, shape: FilmPolicyConfig, contract: Contract, preprocess: Operations) -> None:
    """The model's shapes, the contract and the preprocess must tell one story."""
    action, plan = contract.action, contract.plan
    said = {
        "camera names": [camera.name for camera in contract.cameras],
        "preprocess": sorted(preprocess),
        "window slots": len(contract.window.offsets_s),
        "window padding is not `mask`": contract.window.pad != "mask",
        "instruction tokens": contract.instruction.max_tokens if contract.instruction else 0,
        "state fields": len(contract.state.fields) if contract.state else 0,
        "chunk": (action.steps, len(action.names)),
        "plan": (len(plan.waypoint_offsets_s), len(plan.names), len(plan.steps)) if plan else None,
        "picture size": [_size(camera, preprocess.get(camera.name, ())) for camera in contract.cameras],
    }
    needed = {
        "camera names": [camera.name for camera in shape.cameras],
        "preprocess": sorted(camera.name for camera in shape.cameras),
        "window slots": shape.window,
        "window padding is not `mask`": True,
        "instruction tokens": shape.max_tokens,
        "state fields": shape.state_size,
        "chunk": (shape.chunk_steps, shape.action_size),
        "plan": (shape.waypoints, shape.waypoint_size, shape.plan_steps),
        "picture size": [(camera.height, camera.width) for camera in shape.cameras],
    }
    for key, want in needed.items():
        if said[key] != want:
            raise CheckpointError(
                f"{where}: {key}: the model needs {want}, contract and preprocess say {said[key]}; correct the file"
            )


def _size(camera: CameraSpec, operations: Sequence[ImageOp]) -> tuple[int, int]:
    """(height, width) after the last operation that sets it."""
    sizes = [(one.height, one.width) for one in operations if isinstance(one, (Resize, CenterCrop, Pad))]
    return sizes[-1] if sizes else (camera.height, camera.width)


def _vision_stages(shape: FilmPolicyConfig) -> dict[str, str]:
    """camera -> stage; cameras with one trunk and one picture size share a stage."""
    sizes = {(camera.height, camera.width) for camera in shape.cameras}
    if len(sizes) == 1 and (shape.shared_trunk or len(shape.cameras) == 1):
        return {camera.name: "vision" for camera in shape.cameras}
    return {camera.name: f"vision_{camera.name}" for camera in shape.cameras}


def _once(vision: Mapping[str, str]) -> list[tuple[str, str]]:
    """(stage, a camera of it), each stage once."""
    first: dict[str, str] = {}
    for camera, stage in vision.items():
        first.setdefault(stage, camera)
    return list(first.items())


def _port(name: str, kind: Any, *dims: int, dtype: Any = "float32") -> Port:
    return Port(name=name, dtype=dtype, shape=(1, *dims), kind=kind)


def _example(ports: Sequence[Port]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.zeros([int(dim) for dim in port.shape], dtype=getattr(torch, port.dtype)) for port in ports)


def _map_dims(shape: FilmPolicyConfig, camera: str) -> tuple[int, int, int]:
    size = {one.name: (one.height // 4, one.width // 4) for one in shape.cameras}[camera]
    return (shape.map_width, *size)


def _vision(name: str, model: FilmPolicy, shape: FilmPolicyConfig, camera: str) -> Stage:
    size = {one.name: (one.height, one.width) for one in shape.cameras}[camera]
    inputs = (_port("pixels", "pixels", 3, *size),)
    outputs = (_port("features", "features", *_map_dims(shape, camera)),)
    return Stage(
        name=name,
        module=model.vision(camera),
        inputs=inputs,
        outputs=outputs,
        example=_example(inputs),
        quant_exclude=("stem.0.weight",),
        frame_cache="frame",
    )


def _text(model: FilmPolicy, shape: FilmPolicyConfig) -> Stage:
    inputs = (_port("ids", "ids", shape.max_tokens, dtype="int64"), _port("mask", "mask", shape.max_tokens))
    outputs = (_port("text", "features", shape.text_width),)
    return Stage(
        name="text",
        module=model.text,
        inputs=inputs,
        outputs=outputs,
        example=_example(inputs),
        frame_cache="instruction",
    )


def _pool(model: FilmPolicy, shape: FilmPolicyConfig) -> Stage:
    inputs = tuple(
        _port(f"{camera.name}_{slot}", "features", *_map_dims(shape, camera.name))
        for camera in shape.cameras
        for slot in range(shape.window)
    )
    outputs = tuple(
        _port(f"{camera.name}_pooled", "features", *_map_dims(shape, camera.name)) for camera in shape.cameras
    )
    return Stage(name="pool", module=model.pool, inputs=inputs, outputs=outputs, example=_example(inputs))


def _head(model: FilmPolicy, shape: FilmPolicyConfig) -> Stage:
    inputs = (
        _port("text", "features", shape.text_width),
        _port("state", "state", shape.state_size),
        *(_port(f"{camera.name}_pooled", "features", *_map_dims(shape, camera.name)) for camera in shape.cameras),
    )
    outputs = (
        _port("chunk", "action", shape.chunk_steps, shape.action_size),
        _port("waypoints", "waypoints", shape.waypoints, shape.waypoint_size),
        _port("step_logits", "scores", shape.plan_steps),
    )
    grids = tuple(f"fusion.{i}.grid" for i in range(len(shape.cameras)))
    return Stage(
        name="head",
        module=model.head,
        inputs=inputs,
        outputs=outputs,
        example=_example(inputs),
        quant_exclude=(*grids, *HEAD_IN_FLOATS),
    )


def _reference(model: FilmPolicy) -> Reference:
    def run(window: WindowInputs) -> dict[str, NDArray[np.float32]]:
        assert window.state is not None and window.ids is not None and window.mask is not None
        pixels = {camera: torch.from_numpy(frames)[None] for camera, frames in window.pixels.items()}
        with torch.no_grad():  # torch.tensor copies: what the tokenizer hands out is read-only
            outputs = model(pixels, torch.tensor(window.ids), torch.tensor(window.mask), torch.from_numpy(window.state))
        return {name: value.numpy() for name, value in zip(("chunk", "waypoints", "step_logits"), outputs, strict=True)}

    return run
