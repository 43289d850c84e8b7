"""Bundles of a few kilobytes, put together from tests/support/stages without onnx, and observations for them.

`mono` is one rgb8 camera, a state, a plan and a window of 4 (or 8); `duo` is a bgr8 and a mono8 camera, no state and no
plan, with any rule for empty slots; `silent` is `mono` without words, pool and plan; `dual` is a retriever. Their
stages are real graphs with fixed random weights: every input matters.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import DIGEST, MANIFEST, Bundle, new_directory, write_manifest
from edgevlm.engines import Arrays, Engine, Hook, HookedEngine, open_engine
from edgevlm.manifest.contract import (
    ActionChunk,
    ActionGroup,
    ActionSpec,
    CameraSpec,
    Contract,
    InstructionSpec,
    Observation,
    PlanSpec,
    Stamped,
    StateField,
    StateSpec,
    WindowSpec,
)
from edgevlm.manifest.image_ops import CenterCrop, Normalize, Resize, ResizeShortest
from edgevlm.manifest.schema import FORMAT, FileEntry, Manifest, Port, StageSpec, TextSpec
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Policy

STAGES = Path(__file__).parent / "stages"
TOKENIZER = Path(__file__).parent / "tokenizer.json"
MS = 1_000_000
START_NS = 1_700_000_000_000 * MS  # a ROS time, far from zero
PERIOD_NS = 100 * MS
COMMANDS = ("push the red cup", "lift the blue cup", "open the drawer")
MAP = (1, 4, 4, 4)
WRIST_MAP = (1, 4, 3, 5)


def port(name: str, kind: Any, *shape: int) -> Port:
    """A float32 port, or int64 for ids."""
    return Port(name=name, dtype="int64" if kind == "ids" else "float32", shape=shape, kind=kind)


def stage(file: str, inputs: Sequence[Port], outputs: Sequence[Port], **more: Any) -> StageSpec:
    """A stage whose two forms are one file."""
    forms = {"cpu": f"stages/{file}.onnx", "tensorrt": f"stages/{file}.onnx"}
    return StageSpec(inputs=tuple(inputs), outputs=tuple(outputs), forms=forms, opset=17, precision="fp32", **more)


def quantized_stage(file: str, tokens: int | str) -> StageSpec:
    """A stage of two int8 products: `quantized`, or `quantized_dynamic`."""
    ports = [port("tokens", "features", 1, tokens, 16)], [port("mixed", "features", 1, tokens, 16)]
    dynamic = {"tokens": (1, 4, 8)} if isinstance(tokens, str) else {}
    return stage(file, *ports, dynamic=dynamic).model_copy(update={"precision": "int8", "quantized_nodes": 2})


def actions() -> ActionSpec:
    """Five rows of two hand columns and a gripper."""
    hand = ActionGroup(
        kind="ee_delta",
        names=("dx", "dy"),
        units=("m", "m"),
        scale=(0.05, 0.05),
        offset=(0.0, 0.01),
        lower=(-0.06, -0.06),
        upper=(0.06, 0.06),
        relative_to="previous",
    )
    grip = ActionGroup(
        kind="gripper", names=("grip",), units=("1",), scale=(1.0,), offset=(0.0,), lower=(-1.0,), upper=(1.0,)
    )
    return ActionSpec(groups=(hand, grip), steps=5, step_s=0.05, execute_steps=2)


def window(slots: int, **more: Any) -> WindowSpec:
    """`slots` frames 0.1 s apart."""
    offsets_s = tuple(round(-0.1 * slot, 3) for slot in range(slots - 1, 0, -1)) + (0.0,)
    return WindowSpec(**{"offsets_s": offsets_s, "tolerance_s": 0.05, **more})


def mono_contract(slots: int = 4, **more: Any) -> Contract:
    """One camera, a state of x, y and grip, a plan relative to x and y; `more` replaces parts of the window."""
    fields = (
        StateField(name="x", unit="m", mean=0.1, std=0.5),
        StateField(name="y", unit="m", mean=-0.1, std=0.5),
        StateField(name="grip", unit="1"),
    )
    plan = PlanSpec(
        steps=("approach", "grasp", "carry"),
        waypoint_offsets_s=(0.2, 0.4),
        names=("x", "y"),
        units=("m", "m"),
        scale=(0.3, 0.3),
        offset=(0.0, 0.0),
        relative_to=("x", "y"),
    )
    return Contract(
        cameras=(CameraSpec(name="front", width=16, height=12, encoding="rgb8", rate_hz=(10.0, 60.0)),),
        state=StateSpec(fields=fields),
        instruction=InstructionSpec(max_tokens=6, examples=COMMANDS),
        window=window(slots, **more),
        action=actions(),
        plan=plan,
    )


def duo_contract(**more: Any) -> Contract:
    """Two cameras of different sizes and encodings, nothing else."""
    cameras = (
        CameraSpec(name="left", width=16, height=12, encoding="bgr8", rate_hz=(10.0, 30.0)),
        CameraSpec(name="wrist", width=20, height=12, encoding="mono8", rate_hz=(10.0, 30.0)),
    )
    return Contract(
        cameras=cameras,
        state=None,
        instruction=InstructionSpec(max_tokens=6, unknown="allow"),
        window=window(3, **more),
        action=actions(),
    )


TEXT = stage("text", [port("ids", "ids", 1, 6), port("mask", "mask", 1, 6)], [port("text", "features", 1, 4)])
CHUNK = port("chunk", "action", 1, 5, 3)
NORMALIZE = Normalize(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def vision(file: str, height: int, width: int, features: tuple[int, ...]) -> StageSpec:
    """An image-only stage."""
    pixels = port("pixels", "pixels", 1, 3, height, width)
    return stage(file, [pixels], [port("features", "features", *features)], frame_cache="frame")


def mono_parts(slots: int, head: str, contract: Contract) -> dict[str, Any]:
    """What the manifest of `mono` says beside its files."""
    pooled = port("front_pooled", "features", *MAP)
    inputs = [port("text", "features", 1, 4), port("state", "state", 1, 3), pooled]
    outputs = [CHUNK, port("waypoints", "waypoints", 1, 2, 2), port("step_logits", "scores", 1, 3)]
    return {
        "stages": {
            "vision": vision("vision", 8, 8, MAP),
            "text": TEXT,
            "pool": stage(f"pool_{slots}", [port(f"front_{i}", "features", *MAP) for i in range(slots)], [pooled]),
            "head": stage(head, inputs, outputs),
        },
        "preprocess": {"front": (Resize(width=8, height=8), NORMALIZE)},
        "driver": {
            "name": "fuse",
            "args": {"vision": {"front": "vision"}, "text": "text", "pool": "pool", "head": "head"},
        },
        "contract": contract,
    }


def duo_parts(contract: Contract) -> dict[str, Any]:
    """What the manifest of `duo` says beside its files."""
    masked = contract.window.pad == "mask"
    maps = {"left": MAP, "wrist": WRIST_MAP}
    pooled = [port(f"{camera}_pooled", "features", *shape) for camera, shape in maps.items()]
    inputs = [port(f"{camera}_{slot}", "features", *shape) for camera, shape in maps.items() for slot in range(3)]
    inputs += [port(f"{camera}_mask", "mask", 1, 3) for camera in maps] if masked else []
    driver = {"vision": {"left": "vision", "wrist": "vision_wrist"}, "text": "text", "pool": "pool", "head": "head"}
    return {
        "stages": {
            "vision": vision("vision", 8, 8, MAP),
            "vision_wrist": vision("vision_wrist", 6, 10, WRIST_MAP),
            "text": TEXT,
            "pool": stage("pool_duo_masked" if masked else "pool_duo", inputs, pooled),
            "head": stage("head_duo", [port("text", "features", 1, 4), *pooled], [CHUNK]),
        },
        "preprocess": {
            "left": (Resize(width=8, height=8), NORMALIZE),
            "wrist": (Resize(width=10, height=6, filter="bicubic"), NORMALIZE),
        },
        "driver": {"name": "fuse", "args": driver},
        "contract": contract,
    }


def silent_parts(slots: int = 2) -> dict[str, Any]:
    """What the manifest of `silent` says beside its files: `mono` without words, pool and plan."""
    contract = mono_contract(slots).model_copy(update={"instruction": None, "plan": None})
    inputs = [*(port(f"front_{slot}", "features", *MAP) for slot in range(slots)), port("state", "state", 1, 3)]
    return {
        "stages": {"vision": vision("vision", 8, 8, MAP), "head": stage("head_alone", inputs, [CHUNK])},
        "preprocess": {"front": (Resize(width=8, height=8), NORMALIZE)},
        "driver": {"name": "fuse", "args": {"vision": {"front": "vision"}, "text": None, "pool": None, "head": "head"}},
        "contract": contract,
        "tokenizer": None,
    }


def write_bundle(root: Path, parts: Mapping[str, Any]) -> Path:
    """A bundle at `root` from what `mono_parts` or `duo_parts` gave."""

    def build(files: Mapping[str, FileEntry]) -> Manifest:
        common = {
            "format": FORMAT,
            "family": "tiny",
            "task": "policy",
            "precision": "fp32",
            "tokenizer": "tokenizer.json",
            "source_sha256": "0" * 64,
        }
        return Manifest.build(**{**common, "files": files, **parts})

    with new_directory(root) as work:
        (work / "stages").mkdir()
        for path in {path for spec in parts["stages"].values() for path in spec.forms.values()}:
            shutil.copyfile(STAGES / Path(path).name, work / path)
        if parts.get("tokenizer", TOKENIZER) is not None:
            shutil.copyfile(TOKENIZER, work / "tokenizer.json")
        write_manifest(work, build)
    return root


def mono(root: Path, *, slots: int = 4, head: str = "head", **more: Any) -> Path:
    """Write `mono`; `head_fragile` gives NaN as soon as a normalised state is below -1."""
    return write_bundle(root, mono_parts(slots, head, mono_contract(slots, **more)))


def duo(root: Path, **more: Any) -> Path:
    """Write `duo`; `more` replaces parts of its window."""
    return write_bundle(root, duo_parts(duo_contract(**more)))


def silent(root: Path) -> Path:
    """Write `silent`."""
    return write_bundle(root, silent_parts())


def dual_parts(*, masked: bool = False, scores: str = "softmax", bias: float = 0.0) -> dict[str, Any]:
    """What the manifest of `dual` says beside its files."""
    tokens = 6 if masked else "tokens"
    ids = [Port(name="ids", dtype="int64", shape=(1, tokens), kind="ids")]
    inputs = [*ids, port("mask", "mask", 1, 6)] if masked else ids
    more = {} if masked else {"dynamic": {"tokens": (1, 4, 6)}}
    text = stage(
        "dual_text_masked" if masked else "dual_text", inputs, [port("text_embedding", "embedding", 1, 6)], **more
    )
    observed = [port("image_embedding", "embedding", 1, 6)]
    args = {"vision": "vision", "text": "text", "scale": 10.0, "bias": bias, "scores": scores}
    return {
        "task": "retriever",
        "stages": {"vision": stage("dual_vision", [port("pixels", "pixels", 1, 3, 8, 8)], observed), "text": text},
        "preprocess": {"image": (ResizeShortest(size=8), CenterCrop(width=8, height=8), NORMALIZE)},
        "driver": {"name": "dual", "args": args},
        "text": TextSpec(max_tokens=6, length="fixed" if masked else "own", pad_id=0),
    }


def dual(root: Path, **more: Any) -> Path:
    """Write `dual`, a retriever; `more` as `dual_parts` takes it."""
    return write_bundle(root, dual_parts(**more))


def rewrite(root: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as JSON, unchecked, under a hash that fits."""
    data = json.loads((root / MANIFEST).read_text())
    edit(data)
    text = json.dumps(data).encode()
    (root / MANIFEST).write_bytes(text)
    (root / DIGEST).write_text(f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n")


def refile(root: Path, relative: str, content: bytes) -> None:
    """Replace a file of the bundle under a hash that fits."""
    (root / relative).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    rewrite(root, lambda data: data["files"].update({relative: entry}))


def image(camera: CameraSpec, seed: int) -> NDArray[np.uint8]:
    """A frame of its own for every seed."""
    return np.random.default_rng(seed).integers(0, 256, camera.shape, np.uint8)


def observation(contract: Contract, index: int, command: str = COMMANDS[0], stamp_ns: int | None = None) -> Observation:
    """The `index`-th step of a made-up episode: fresh frames and state every 0.1 s."""
    now_ns = START_NS + index * PERIOD_NS if stamp_ns is None else stamp_ns
    frames = {
        camera.name: Stamped(image(camera, 1000 * place + index), now_ns)
        for place, camera in enumerate(contract.cameras)
    }
    values = np.random.default_rng(index).uniform(-0.3, 0.3, 3).astype(np.float32)
    state = Stamped(values, now_ns) if contract.state else None
    return Observation(frames=frames, state=state, instruction=command)


class Counted(Hook):
    """An `EngineFactory` of the real engine: counts runs, and fails, blocks or changes outputs where a test says so."""

    def __init__(self) -> None:
        self.runs: dict[str, int] = {}
        self.closed: list[str] = []
        self.before_run: Callable[[str], None] = lambda stage: None
        self.change: Callable[[str, Arrays, Arrays], Arrays] = lambda stage, inputs, outputs: outputs

    def __call__(self, bundle: Bundle, stages: Collection[str], options: RuntimeOptions) -> Engine:
        return _CountedEngine(open_engine(bundle, stages, options), self)

    def before(self, stage: str, inputs: Arrays) -> Arrays:
        self.before_run(stage)
        self.runs[stage] = self.runs.get(stage, 0) + 1
        return inputs

    def after(self, stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        return self.change(stage, inputs, outputs)


class _CountedEngine(HookedEngine):
    def __init__(self, engine: Engine, owner: Counted) -> None:
        super().__init__(engine, owner)
        self._owner = owner

    def close(self) -> None:
        self._owner.closed += self.stages
        super().close()


Open = Callable[..., tuple[Policy, Counted]]  # a bundle's name -> a policy over it, and its counted engines


def same(one: ActionChunk, other: ActionChunk) -> bool:
    """Whether two chunks are equal in everything that a robot would use."""
    equal = np.array_equal(one.values, other.values) and one.observed_ns == other.observed_ns
    if one.plan and other.plan:
        equal &= np.array_equal(one.plan.waypoints, other.plan.waypoints)
        equal &= np.array_equal(one.plan.confidence, other.plan.confidence)
    return bool(equal) and (one.plan is None) == (other.plan is None)
