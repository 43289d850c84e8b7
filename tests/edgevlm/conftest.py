"""A point on a line: a small simulator that renders, and a session that really looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgevlm.manifest.contract import (
    SECOND_NS,
    ActionChunk,
    ActionGroup,
    ActionSpec,
    CameraSpec,
    Contract,
    InstructionSpec,
    Observation,
    Stamped,
    StateField,
    StateSpec,
    WindowSpec,
)
from edgevlm.temporal import nearest

WIDTH, STEP_S, STEPS_PER_FRAME = 16, 0.05, 2


def line_contract() -> Contract:
    group = ActionGroup(
        kind="ee_delta", names=("dx",), units=("1",), scale=(1.0,), offset=(0.0,), lower=(-1.0,), upper=(1.0,)
    )
    return Contract(
        cameras=(CameraSpec(name="top", width=WIDTH, height=4, encoding="rgb8", rate_hz=(10, 10)),),
        state=StateSpec(fields=(StateField(name="speed", unit="1"),)),
        instruction=InstructionSpec(max_tokens=8),
        window=WindowSpec(offsets_s=(-0.2, -0.1, 0.0), tolerance_s=0.02),
        action=ActionSpec(groups=(group,), steps=4, step_s=STEP_S, execute_steps=2),
    )


class LineSimulator:
    """A white dot on a line of 16 pixels. `left` and `right` are its ends, `middle` is to pass the middle."""

    commands: tuple[str, ...] = ("left", "right", "middle")

    def __init__(self, step_s: float = STEP_S, frames_every: int = STEPS_PER_FRAME) -> None:
        self.step_s = step_s
        self._every = frames_every
        self.applied: list[float] = []
        self.resets: list[tuple[int, str, str]] = []
        self.rests = 0

    def reset(self, *, seed: int, command: str, variant: str = "plain") -> None:
        self.resets.append((seed, command, variant))
        self.x = float(np.random.default_rng(seed).uniform(5, 7))
        self._steps, self._speed = 0, 0.0
        self._done: set[str] = set()
        self._render()

    def phrase(self, command: str) -> str:
        return f"go {command}"

    def observe(self, instruction: str) -> Observation:
        state = Stamped(np.array([self._speed], np.float32), self._frame.stamp_ns)
        return Observation({"top": self._frame}, state, instruction)

    def apply(self, values: NDArray[np.float32]) -> None:
        self.applied.append(float(values[0]))
        self._speed = float(values[0])
        self.x = float(np.clip(self.x + self._speed, 0, WIDTH - 1))
        self._steps += 1
        reached = {"left": self.x <= 1, "right": self.x >= WIDTH - 2, "middle": self.x >= WIDTH / 2}
        self._done |= {name for name, there in reached.items() if there}
        if self._steps % self._every == 0:
            self._render()

    def rest(self) -> None:
        self.rests += 1
        self.apply(np.zeros(1, np.float32))

    def succeeded(self, command: str) -> bool:
        return command in self._done

    @property
    def finished(self) -> bool:
        return self._steps >= 60

    def close(self) -> None:
        pass

    def _render(self) -> None:
        image = np.zeros((4, WIDTH, 3), np.uint8)
        image[:, int(self.x)] = 255
        self._frame = Stamped(image, SECOND_NS + round(self._steps * self.step_s * SECOND_NS))


@dataclass
class LineSession:
    """Goes where the instruction says while it sees the dot, faster when the window shows it moving."""

    contract: Contract
    frames: list[Stamped[NDArray[np.uint8]]] = field(default_factory=list)
    acted: list[Observation] = field(default_factory=list)
    windows: list[tuple[int, ...]] = field(default_factory=list)
    encodes: int = 0
    sampled_frames: int = 0

    def reset(self) -> None:
        self.frames.clear()

    def push(self, camera: str, frame: Stamped[NDArray[np.uint8]]) -> None:
        assert camera == "top"
        assert not self.frames or frame.stamp_ns > self.frames[-1].stamp_ns
        self.frames.append(frame)
        self.encodes += 1
        self.sampled_frames += 1

    def act(self, observation: Observation) -> ActionChunk:
        now_ns = observation.frames["top"].stamp_ns
        if not self.frames or self.frames[-1].stamp_ns < now_ns:
            self.push("top", observation.frames["top"])
        self.acted.append(observation)
        stamps = [frame.stamp_ns for frame in self.frames]
        slots = [
            self.frames[nearest(stamps, now_ns + round(offset * SECOND_NS))].value
            for offset in self.contract.window.offsets_s
        ]
        window = tuple(int(np.argmax(slot[0, :, 0])) for slot in slots)
        self.windows.append(window)
        visible = slots[-1].max() == 255
        ways = {"go left": -1.0, "go right": 1.0, "go middle": 1.0}
        way = ways[observation.instruction] if visible else 0.0
        values = np.full((4, 1), way * (0.4 + 0.05 * (window[2] - 2 * window[1] + window[0])), np.float32)
        return ActionChunk(values, ("dx",), ("1",), STEP_S, now_ns, now_ns + 4 * round(STEP_S * SECOND_NS), 1)


class LinePolicy:
    """Sessions over one contract, and a bundle that only has a name."""

    def __init__(self) -> None:
        self.contract = line_contract()
        self.bundle: Any = SimpleNamespace(sha256="ab" * 32)
        self.sessions: list[LineSession] = []
        self.warm = 0

    def session(self) -> LineSession:
        self.sessions.append(LineSession(self.contract))
        return self.sessions[-1]

    def warm_up(self) -> None:
        self.warm += 1


@pytest.fixture
def policy() -> LinePolicy:
    return LinePolicy()


@pytest.fixture
def simulator() -> LineSimulator:
    return LineSimulator()


@pytest.fixture
def make_simulator() -> Callable[..., LineSimulator]:
    return LineSimulator
