"""A contract with two cameras and recordings of it, each made by the test that reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgevlm.data import LogWriter
from edgevlm.manifest.contract import (
    ActionGroup,
    ActionSpec,
    CameraSpec,
    Contract,
    InstructionSpec,
    StateField,
    StateSpec,
    WindowSpec,
)

SECOND_NS = 1_000_000_000
START_NS = 5 * SECOND_NS
Record = Callable[..., Path]


@pytest.fixture
def contract() -> Contract:
    """Camera `left` 8x6 rgb8 leads, `right` 4x4 mono8; state a, b in rad; frames 0.1 s apart."""
    group = ActionGroup(
        kind="joint_delta", names=("a",), units=("rad",), scale=(1.0,), offset=(0.0,), lower=(-1.0,), upper=(1.0,)
    )
    return Contract(
        cameras=(
            CameraSpec(name="left", width=8, height=6, encoding="rgb8", rate_hz=(10, 10)),
            CameraSpec(name="right", width=4, height=4, encoding="mono8", rate_hz=(10, 10)),
        ),
        state=StateSpec(fields=(StateField(name="a", unit="rad"), StateField(name="b", unit="rad"))),
        instruction=InstructionSpec(max_tokens=8),
        window=WindowSpec(offsets_s=(-0.1, 0.0), tolerance_s=0.03),
        action=ActionSpec(groups=(group,), steps=2, step_s=0.1, execute_steps=1),
    )


@pytest.fixture
def picture() -> Callable[[int], NDArray[np.uint8]]:
    """A picture for camera `left` that tells its number: rgb8 (6, 8, 3)."""

    def make(number: int) -> NDArray[np.uint8]:
        return np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)

    return make


@pytest.fixture
def record(tmp_path: Path, picture: Callable[[int], NDArray[np.uint8]]) -> Record:
    """Writes a recording by the convention: `episodes` of `frames` frames, state at the double rate."""

    def write(episodes: int = 2, frames: int = 5, chunk_bytes: int = 1 << 20, name: str = "log.mcap") -> Path:
        path = tmp_path / name
        with LogWriter(path, chunk_bytes=chunk_bytes) as log:
            stamp_ns = START_NS
            for episode in range(episodes):
                log.string("/instruction", stamp_ns, f"task {episode}")
                for frame in range(frames):
                    number = episode * frames + frame
                    log.joints("/joint_states", stamp_ns - 1_000_000, {"b": number + 0.5, "other": 9.0, "a": number})
                    log.image("/left/image_raw", stamp_ns, picture(number), encoding="rgb8")
                    gray = np.full((4, 4), number, np.uint8)
                    log.image("/right/image_raw", stamp_ns + 5_000_000, gray, encoding="mono8")
                    log.joints("/joint_states", stamp_ns + 49_000_000, {"a": -1.0, "b": -1.0})
                    stamp_ns += SECOND_NS // 10
        return path

    return write
