"""The life of the simulated robot: idle, then one episode after each reset. No ROS: what it needs of it is a `Wire`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import SimulatorError
from edgevlm.manifest.contract import SECOND_NS
from edgevlm_tabletop.ros.journal import Record, WitnessedSimulator
from edgevlm_tabletop.ros.pace import DataTime, Mode, Ticker
from edgevlm_tabletop.sim import STEP_S, STEPS_PER_FRAME

_STEP_NS = round(STEP_S * SECOND_NS)


@dataclass(frozen=True)
class Reset:
    """What the next episode is."""

    seed: int
    command: str
    variant: str


@dataclass(frozen=True)
class Sensed:
    """What the robot measures in one step; `frame` is None between two frames of the camera."""

    stamp_ns: int
    state: NDArray[np.float32]  # (4,) hand x, y, z and gripper in m
    frame: NDArray[np.uint8] | None  # (240, 320, 3) rgb8


@dataclass(frozen=True)
class Settings:
    """How time passes.

    Attributes:
        speed: steps per 25 ms of steady time, in the mode `scaled`.
        pause_s: silence in steady time before an episode: longer than commands are valid and the policy looks back.
        gap_s: by how much counted data time jumps then; longer than the policy looks back.
        timeout_s: how long a command of the right stamp may take in the mode `lock_step`, in steady time.
        start_s: where counted data time begins.
    """

    mode: Mode
    speed: float = 1.0
    pause_s: float = 0.8
    gap_s: float = 5.0
    timeout_s: float = 10.0
    start_s: float = 1.0


class Wire(Protocol):
    """What the robot is connected to. Stamps of commands are judged on this side, see `pace.Commands`."""

    def ros_ns(self) -> int: ...

    def steady_ns(self) -> int: ...

    def wait_until(self, steady_ns: int) -> bool:
        """Sleep; False when the robot shall do no more of what it does: there is a reset, or the end."""

    def take_reset(self) -> Reset | None:
        """Wait for a reset; None at the end."""

    def begin(self, stamp_ns: int) -> None:
        """Take commands from this stamp on."""

    def end(self, record: Record, final_ns: int) -> None:
        """Take no more commands, and tell what came of the episode."""

    def clock(self, stamp_ns: int) -> None:
        """Publish data time."""

    def send(self, sensed: Sensed) -> None:
        """Publish what was measured."""

    def due(self, now_ns: int) -> NDArray[np.float32] | None:
        """The action in force."""

    def wait_action(self, stamp_ns: int, timeout_s: float) -> NDArray[np.float32] | None:
        """The action stamped exactly so; None when it has not come in time, or there is a reset or the end."""

    @property
    def dropped(self) -> dict[str, int]:
        """Commands that were not taken in this episode."""


class Robot:
    """Runs in one thread, which also renders. See `Wire` for the world around it."""

    def __init__(self, simulator: WitnessedSimulator, wire: Wire, settings: Settings) -> None:
        self._simulator, self._wire, self._settings = simulator, wire, settings
        self._time = DataTime(settings.mode, round(settings.start_s * SECOND_NS))
        self._frames_ns: list[int] = []
        self._rested = 0

    def run(self) -> None:
        """Live until the wire ends.

        Raises:
            SimulatorError: in lock-step, no command came for a step.
        """
        self._simulator.reset(seed=0, command=self._simulator.commands[0])
        self._idle()
        while (reset := self._wire.take_reset()) is not None:
            self._simulator.reset(seed=reset.seed, command=reset.command, variant=reset.variant)
            if self._pause():
                self._episode(reset)

    def _now_ns(self) -> int:
        return self._time.now_ns(self._wire.ros_ns())

    def _period_ns(self) -> int:
        return round(_STEP_NS / self._settings.speed) if self._settings.mode == "scaled" else _STEP_NS

    def _idle(self) -> None:
        """Sensors at their usual rates, so that whoever connects finds them; commands are ignored."""
        ticker, steps = Ticker(self._period_ns(), self._wire.steady_ns()), 0
        while self._wire.wait_until(ticker.following(self._wire.steady_ns())):
            self._sense(with_frame=steps % STEPS_PER_FRAME == 0)
            self._time.go_on(_STEP_NS)
            steps += 1

    def _pause(self) -> bool:
        """Silence before an episode; False when it was interrupted. Counted time jumps before a frame is sent."""
        self._time.go_on(round(self._settings.gap_s * SECOND_NS))
        start_ns = self._wire.steady_ns()
        end_ns = start_ns + round(self._settings.pause_s * SECOND_NS)
        ticker = Ticker(_STEP_NS, start_ns)
        while self._wire.steady_ns() < end_ns:
            if self._time.counted:
                self._wire.clock(self._now_ns())
            if not self._wire.wait_until(min(end_ns, ticker.following(self._wire.steady_ns()))):
                return False
        return True

    def _episode(self, reset: Reset) -> None:
        self._frames_ns, self._rested = [], 0
        simulator, lock_step = self._simulator, self._settings.mode == "lock_step"
        ticker = Ticker(self._period_ns(), self._wire.steady_ns())
        now_ns = self._now_ns()
        self._wire.begin(now_ns)
        while not simulator.finished and not simulator.succeeded(reset.command):
            now_ns = self._sense(with_frame=simulator.applied % STEPS_PER_FRAME == 0)
            action = self._wire.wait_action(now_ns, self._settings.timeout_s) if lock_step else self._wire.due(now_ns)
            if action is not None:
                simulator.apply(action)
            elif lock_step:
                self._stalled(reset)
                return
            else:
                simulator.rest()
                self._rested += 1
            self._time.go_on(_STEP_NS)
            if not lock_step and not self._wire.wait_until(ticker.following(self._wire.steady_ns())):
                return
        self._wire.end(self._record(reset), self._now_ns())

    def _sense(self, *, with_frame: bool) -> int:
        """Publish what is measured now, and its stamp in return."""
        now_ns = self._now_ns()
        if self._time.counted:
            self._wire.clock(now_ns)
        frame = self._simulator.frame[0] if with_frame else None
        self._wire.send(Sensed(now_ns, self._simulator.state, frame))
        if with_frame:
            self._frames_ns.append(now_ns)
        return now_ns

    def _stalled(self, reset: Reset) -> None:
        if not self._wire.wait_until(self._wire.steady_ns()):
            return  # a reset or the end, and no fault
        raise SimulatorError(
            f"episode {reset.seed}, step {self._simulator.applied}: no twist and gripper command stamped exactly like "
            f"the state within {self._settings.timeout_s} s of steady time (dropped: {self._wire.dropped}); see the "
            "command gate's diagnostics: it must run with lock_step, and the policy needs an instruction"
        )

    def _record(self, reset: Reset) -> Record:
        return Record(
            seed=reset.seed,
            command=reset.command,
            variant=reset.variant,
            success=self._simulator.succeeded(reset.command),
            steps=self._simulator.applied,
            sha256=self._simulator.digest(),
            rested=self._rested,
            dropped=self._wire.dropped,
            frame_stamps_ns=tuple(self._frames_ns),
        )
