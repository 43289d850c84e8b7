"""A robot that shares nothing with the trained default: contract, tiny random model, and a foreign recording of it.

Two cameras: `left`, bgr8, recorded as an Image with padded rows; `wrist`, rgb8, recorded as JPEG. Seven joints in
radians, which its recording has in degrees, in another order and among four others. 20 Hz. Topic names follow no
convention; MAP, one YAML, names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from edgevlm.data import LogWriter
from edgevlm.manifest.contract import (
    SECOND_NS,
    ActionGroup,
    ActionSpec,
    CameraSpec,
    Contract,
    InstructionSpec,
    PlanSpec,
    StateField,
    StateSpec,
    WindowSpec,
)
from edgevlm_export.models.film_policy import CameraFusion, CameraInput, FilmPolicy, FilmPolicyConfig

JOINTS = ("base_yaw", "shoulder_lift", "elbow_flex", "forearm_roll", "wrist_flex", "wrist_roll", "jaw")
NAMES_ON_THE_ROBOT = {  # the contract's name -> the driver's
    "base_yaw": "axis_1",
    "shoulder_lift": "axis_2",
    "elbow_flex": "axis_3",
    "forearm_roll": "axis_4",
    "wrist_flex": "axis_5",
    "wrist_roll": "axis_6",
    "jaw": "tool_jaw",
}
ORDER_ON_THE_ROBOT = (
    "mast", "tool_jaw", "axis_6", "track_left", "axis_2", "axis_4", "axis_1", "track_right", "axis_5", "axis_3", "lamp",
)  # fmt: skip
MEAN = (0.0, -0.6, 1.1, 0.0, 0.4, 0.0, 0.2)
STD = (0.7, 0.4, 0.5, 0.9, 0.6, 1.2, 0.1)
HZ = 20
PERIOD_NS = SECOND_NS // HZ
COMMANDS = ("stack the crate", "turn the crate", "fetch the bottle", "turn the bottle")
WORDS = ("[PAD]", "[UNK]", "stack", "turn", "fetch", "the", "crate", "bottle")
MAX_TOKENS = 5
LEFT_PADDING = 13  # bytes behind each row
SIZES = {"left": (64, 48), "wrist": (40, 40)}  # width, height
MODEL_SIZES = {"left": (48, 32), "wrist": (32, 32)}
PIXEL_MEAN, PIXEL_STD = (0.5, 0.4, 0.3), (0.25, 0.3, 0.2)
TOPICS = {
    "left": "/stereo/port/raw",
    "wrist": "/gripper_eye/jpeg",
    "joints": "/driver/axes",
    "text": "/operator/speech",
}
MAP = "\n".join(
    [
        f"cameras: {{left: {TOPICS['left']}, wrist: {TOPICS['wrist']}}}",
        "state:",
        *(
            f"  {joint}: {{topic: {TOPICS['joints']}, joint: {name}, unit: deg}}"
            for joint, name in NAMES_ON_THE_ROBOT.items()
        ),
        f"instruction: {TOPICS['text']}",
        "",
    ]
)
WINDOW = WindowSpec(offsets_s=(-0.15, -0.1, -0.05, 0.0), tolerance_s=0.02)


def contract() -> Contract:
    """What the checkpoint says of the robot."""
    seven = len(JOINTS)
    group = ActionGroup(
        kind="joint_delta",
        names=tuple(f"d_{joint}" for joint in JOINTS),
        units=("rad",) * seven,
        scale=(0.05,) * seven,
        offset=(0.0,) * seven,
        lower=(-0.2,) * seven,
        upper=(0.2,) * seven,
        relative_to="previous",
    )
    fields = tuple(
        StateField(name=name, unit="rad", mean=mean, std=std) for name, mean, std in zip(JOINTS, MEAN, STD, strict=True)
    )
    return Contract(
        cameras=(
            CameraSpec(name="left", width=64, height=48, encoding="bgr8", rate_hz=(HZ, HZ)),
            CameraSpec(name="wrist", width=40, height=40, encoding="rgb8", rate_hz=(HZ, HZ)),
        ),
        state=StateSpec(fields=fields),
        instruction=InstructionSpec(max_tokens=MAX_TOKENS),
        window=WINDOW,
        action=ActionSpec(groups=(group,), steps=5, step_s=1 / HZ, execute_steps=3),
        plan=PlanSpec(
            steps=("approach", "close", "place"),
            waypoint_offsets_s=(0.25, 0.5),
            names=JOINTS,
            units=("rad",) * seven,
            scale=(0.3,) * seven,
            offset=(0.0,) * seven,
            relative_to=JOINTS,
        ),
    )


def config() -> FilmPolicyConfig:
    """A small model with a trunk for each camera."""
    return FilmPolicyConfig(
        cameras=tuple(CameraInput(name=name, width=w, height=h) for name, (w, h) in MODEL_SIZES.items()),
        shared_trunk=False,
        window=len(WINDOW.offsets_s),
        vocabulary=len(WORDS),
        max_tokens=MAX_TOKENS,
        state_size=len(JOINTS),
        chunk_steps=5,
        action_size=len(JOINTS),
        waypoints=2,
        waypoint_size=len(JOINTS),
        plan_steps=3,
        stem_width=8,
        map_width=8,
        text_width=16,
        text_layers=1,
        text_heads=2,
        fusion_blocks=1,
        keypoints=8,
        hidden=32,
    )


def write_checkpoint(folder: Path, seed: int = 8) -> Path:
    """model.safetensors, config.json, tokenizer.json of a random model in which every input matters."""
    torch.manual_seed(seed)
    model = FilmPolicy(config())
    _settle(model)
    preprocess = {
        name: [
            {"op": "resize", "width": width, "height": height, "filter": "bilinear"},
            {"op": "normalize", "mean": PIXEL_MEAN, "std": PIXEL_STD},
        ]
        for name, (width, height) in MODEL_SIZES.items()
    }
    model.save_pretrained(folder, {"contract": contract().model_dump(mode="json"), "preprocess": preprocess})
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _settle(model: FilmPolicy) -> None:
    """Batch norms take the statistics of the robot's own pictures, and the head's first layer spreads what differs.

    Without it a random network puts out nearly the same whatever it sees.
    """
    moments = [native_inputs(task, last) for task in tasks(episodes=12, steps=4, seed=9) for last in (0, 3)]
    pixels = {name: torch.cat([moment[0][name] for moment in moments]) for name in SIZES}
    ids, mask, state = (torch.cat([moment[i] for moment in moments]) for i in (1, 2, 3))
    activations: list[Tensor] = []
    first = model.head.trunk[0]
    hook = first.register_forward_hook(lambda module, inputs, output: activations.append(inputs[0]))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all passes
        if isinstance(module, CameraFusion):
            module.heat.weight.data *= 20.0  # keypoints that stand out
    with torch.no_grad():
        model.train()(pixels, ids, mask, state)
        model.eval()(pixels, ids, mask, state)
        words = slice(-len(JOINTS) - config().text_width, -len(JOINTS))
        first.weight.data[:, words] *= 3.0
        reached = activations[-1] @ first.weight.T
        first.weight.data /= reached.std(0)[:, None]
        first.bias.data = -reached.mean(0) / reached.std(0)
    hook.remove()


@dataclass(frozen=True)
class Step:
    """What was true in one camera period, before any message was made of it."""

    stamp_ns: int
    joints_rad: NDArray[np.float64]  # in the contract's order
    left_rgb: NDArray[np.uint8]  # (48, 64, 3)
    wrist_rgb: NDArray[np.uint8]  # (40, 40, 3)

    @cached_property
    def wrist_jpeg(self) -> bytes:
        """The wrist camera's file."""
        buffer = BytesIO()
        Image.fromarray(self.wrist_rgb).save(buffer, "JPEG", quality=95)
        return buffer.getvalue()


@dataclass(frozen=True)
class Task:
    """One episode."""

    command: str
    steps: tuple[Step, ...]


def tasks(episodes: int = 8, steps: int = 16, seed: int = 3) -> Iterator[Task]:
    """Made-up episodes: coarse scenes that drift, joints that swing."""
    generator = np.random.default_rng(seed)
    for episode in range(episodes):
        scenes = {name: _scene(generator, *size) for name, size in SIZES.items()}
        phase = generator.uniform(0, 2 * np.pi, len(JOINTS))
        start_ns = (10 + 5 * episode) * SECOND_NS
        yield Task(
            COMMANDS[episode % len(COMMANDS)],
            tuple(
                Step(
                    stamp_ns=start_ns + i * PERIOD_NS,
                    joints_rad=np.array(MEAN) + np.array(STD) * np.sin(phase + 0.2 * i),
                    left_rgb=np.roll(scenes["left"], i, axis=1),
                    wrist_rgb=np.roll(scenes["wrist"], -i, axis=0),
                )
                for i in range(steps)
            ),
        )


def _scene(generator: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Blocks of 8 pixels around a colour of the scene's own."""
    colour, contrast = generator.uniform(40, 215, 3), generator.uniform(5, 80)
    coarse = np.clip(colour + contrast * generator.standard_normal((height // 8, width // 8, 3)), 0, 255)
    return np.kron(coarse.astype(np.uint8), np.ones((8, 8, 1), np.uint8))


def native_inputs(task: Task, last: int) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """(pixels, ids, mask, state) for the model at step `last`, by Pillow and arithmetic on what was true."""
    window = [task.steps[max(last - i, 0)] for i in (3, 2, 1, 0)]
    pictures = {
        "left": [Image.fromarray(step.left_rgb) for step in window],
        "wrist": [Image.open(BytesIO(step.wrist_jpeg)).convert("RGB") for step in window],
    }
    pixels = {
        name: torch.cat([_pixels(picture, MODEL_SIZES[name]) for picture in pictures[name]])[None] for name in pictures
    }
    ids = [WORDS.index(word) for word in task.command.split()]
    padding = MAX_TOKENS - len(ids)
    state = (window[-1].joints_rad - np.array(MEAN)) / np.array(STD)
    return (
        pixels,
        torch.tensor([ids + [0] * padding]),
        torch.tensor([[1.0] * len(ids) + [0.0] * padding]),
        torch.tensor(state, dtype=torch.float32)[None],
    )


def _pixels(picture: Image.Image, size: tuple[int, int]) -> Tensor:
    small = np.asarray(picture.resize(size, Image.Resampling.BILINEAR)) / 255.0
    normalized = (small - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)
    return torch.tensor(normalized, dtype=torch.float32).permute(2, 0, 1)[None]


def write_log(path: Path, episodes: int = 8, steps: int = 16) -> Path:
    """The recording, with the wrist camera 7 ms late, joints at 100 Hz, and topics that nobody asked for."""
    with LogWriter(path) as log:
        for task in tasks(episodes, steps):
            log.string(TOPICS["text"], task.steps[0].stamp_ns - 20_000_000, task.command)
            for step in task.steps:
                _write_step(log, step)
    return path


def _write_step(log: LogWriter, step: Step) -> None:
    for i in range(5):  # the sample at the camera's stamp is the true one, those after it have moved on
        angles_deg = dict(zip(NAMES_ON_THE_ROBOT.values(), np.degrees(step.joints_rad) + 3.0 * i, strict=True))
        others = {name: 777.0 for name in ORDER_ON_THE_ROBOT if name not in angles_deg}
        position = {name: {**angles_deg, **others}[name] for name in ORDER_ON_THE_ROBOT}
        log.joints(TOPICS["joints"], step.stamp_ns + i * PERIOD_NS // 5, position)
        if i == 0:
            bgr = np.ascontiguousarray(step.left_rgb[:, :, ::-1])
            log.image(TOPICS["left"], step.stamp_ns, bgr, encoding="bgr8", padding=LEFT_PADDING, frame_id="port")
            late_ns = step.stamp_ns + 7_000_000
            log.compressed_image(TOPICS["wrist"], late_ns, step.wrist_jpeg, form="rgb8; jpeg compressed bgr8")
            log.pose("/odometry/mast", step.stamp_ns, (1.0, 2.0, 0.0))
            log.string("/battery", step.stamp_ns, "full")
