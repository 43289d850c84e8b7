"""Closed-loop episodes: a session drives a simulator through the public verbs only, and the result is counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgevlm.errors import SimulatorError
from edgevlm.gate.chunking import Executor, LatestChunk, NoCommand, RecedingHorizon
from edgevlm.manifest.contract import SECOND_NS, ActionChunk, Contract, Observation, Plan, Spec
from edgevlm.sim.controls import ActionChange, Control, History, SessionLike, WindowControl, blank, other_command
from edgevlm.sim.simulator import Simulator

Clock = Callable[[], int]


class EpisodeSpec(Spec):
    """One episode: the scene is made from `seed`; `command` is what it is judged by.

    Attributes:
        latency_s: simulated time between an observation and the first use of its chunk, as on a robot that goes on
            moving while the model runs; frames that come meanwhile are pushed, and without a chunk the robot rests.
    """

    seed: int = Field(ge=0)
    command: str
    variant: str = "plain"
    control: Control = "none"
    latency_s: float = Field(default=0.0, ge=0, le=60)


@dataclass(frozen=True)
class EpisodeFrame:
    """What a recorder gets whenever the lead camera has a new frame."""

    spec: EpisodeSpec
    instruction: str
    image: NDArray[np.uint8]  # (H, W, C) in the lead camera's encoding, as the robot saw it
    stamp_ns: int
    plan: Plan | None  # of the newest chunk


FrameHook = Callable[[EpisodeFrame], None]


@dataclass(frozen=True)
class EpisodeResult:
    """How one episode ended. `given` is the command that was said; under `wrong-command` it is not `command`."""

    seed: int
    command: str
    given: str
    success: bool  # of `command`
    given_success: bool
    steps: int
    act_ns: tuple[int, ...]  # duration of each `act`
    action_change: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # window controls only


@dataclass(frozen=True)
class Driver:
    """What drives: the session, a second one for window controls, and the clock that times `act`."""

    contract: Contract
    session: SessionLike
    altered: SessionLike | None = None
    clock: Clock = time.perf_counter_ns
    on_frame: FrameHook | None = None


def run_episode(driver: Driver, simulator: Simulator, spec: EpisodeSpec) -> EpisodeResult:
    """Drive one episode until the command that was given is fulfilled or the simulator's step limit is reached.

    The session is reset first and asked again whenever `action.execute_steps` rows of its chunk are used.

    Raises:
        SimulatorError: the simulator does not know the command, its control step is not the contract's, or a window
            control has no second session.
        EdgevlmError: what `act` raises.
    """
    run = _Run(driver, simulator, spec)
    while not simulator.finished and not simulator.succeeded(run.given):
        run.step()
    return run.end()


class _Run:
    """The state of one episode."""

    def __init__(self, driver: Driver, simulator: Simulator, spec: EpisodeSpec) -> None:
        _check(driver, simulator, spec)
        self._driver, self._simulator, self._spec = driver, simulator, spec
        wrong = spec.control == "wrong-command"
        self.given = other_command(simulator.commands, spec.command, seed=spec.seed) if wrong else spec.command
        simulator.reset(seed=spec.seed, command=spec.command, variant=spec.variant)
        self._instruction = simulator.phrase(self.given)
        driver.session.reset()
        self._executor: Executor = RecedingHorizon(LatestChunk(), driver.contract.action.execute_steps)
        self._history = History(driver.contract)
        self._window = (
            WindowControl(driver.altered, driver.contract, spec.control, seed=spec.seed) if driver.altered else None
        )
        self._change = ActionChange(driver.contract.action.names)
        self._act_ns: list[int] = []
        self._plan: Plan | None = None
        self._latency_ns = round(spec.latency_s * SECOND_NS)
        self._pending: tuple[int, ActionChunk] | None = None  # (when it may be used, chunk)
        self._steps = 0
        self._start_ns = self._now_ns = _newest_ns(simulator.observe(self._instruction))

    def step(self) -> None:
        """One control step: look, ask for a chunk when it is time, execute one row."""
        observation = self._simulator.observe(self._instruction)
        if self._spec.control == "blank-image":
            observation = blank(observation)
        fresh = self._history.add(observation)
        self._hand_over()
        spent = self._executor.progress(self._now_ns) is None and not self._latency_ns
        if self._pending is None and (spent or (fresh and self._executor.wants_chunk(self._now_ns))):
            self._ask(observation)
            self._hand_over()
        else:
            for name in fresh:
                self._driver.session.push(name, observation.frames[name])
        self._show(observation, fresh)
        outcome = self._executor.command(self._now_ns)
        if not isinstance(outcome, NoCommand):
            self._simulator.apply(outcome.values)
        elif self._latency_ns:
            self._simulator.rest()
        else:
            raise SimulatorError(
                f"episode {self._spec.seed}, {self._now_ns} ns: the newest chunk gives no command ({outcome.reason}); "
                "the simulator's frames are further apart than a chunk lasts"
            )
        self._steps += 1
        self._now_ns = self._start_ns + round(self._steps * self._simulator.step_s * SECOND_NS)

    def _ask(self, observation: Observation) -> None:
        self._executor.observed(_newest_ns(observation), self._now_ns)
        clock = self._driver.clock
        started = clock()
        chunk = self._driver.session.act(observation)
        elapsed = clock() - started
        if self._window:
            chunk, elapsed = self._altered(self._window, observation, chunk)
        self._act_ns.append(elapsed)
        self._plan = chunk.plan
        self._pending = (self._now_ns + self._latency_ns, chunk)

    def _hand_over(self) -> None:
        if self._pending is not None and self._pending[0] <= self._now_ns:
            self._executor.offer(self._pending[1], self._now_ns)
            self._pending = None

    def _altered(self, window: WindowControl, observation: Observation, plain: ActionChunk) -> tuple[ActionChunk, int]:
        started = self._driver.clock()
        chunk = window.act(observation, self._history)
        elapsed = self._driver.clock() - started
        self._change.add(plain, chunk)
        return chunk, elapsed

    def _show(self, observation: Observation, fresh: list[str]) -> None:
        lead = self._driver.contract.cameras[0].name
        if self._driver.on_frame and lead in fresh:
            frame = observation.frames[lead]
            self._driver.on_frame(EpisodeFrame(self._spec, self._instruction, frame.value, frame.stamp_ns, self._plan))

    def end(self) -> EpisodeResult:
        """Show the last frame and say what came of the episode."""
        last = self._simulator.observe(self._instruction)
        self._show(last, self._history.add(last))
        return EpisodeResult(
            seed=self._spec.seed,
            command=self._spec.command,
            given=self.given,
            success=self._simulator.succeeded(self._spec.command),
            given_success=self._simulator.succeeded(self.given),
            steps=self._steps,
            act_ns=tuple(self._act_ns),
            action_change=self._change.summary(),
        )


def _newest_ns(observation: Observation) -> int:
    return max(frame.stamp_ns for frame in observation.frames.values())


def _check(driver: Driver, simulator: Simulator, spec: EpisodeSpec) -> None:
    if spec.command not in simulator.commands:
        raise SimulatorError(f"command {spec.command!r}: expected one of {list(simulator.commands)}")
    if spec.control == "wrong-command" and len(simulator.commands) < 2:
        raise SimulatorError(f"control {spec.control!r}: expected two commands or more, got {list(simulator.commands)}")
    step_s = driver.contract.action.step_s
    if abs(simulator.step_s - step_s) > 1e-9:
        raise SimulatorError(
            f"simulator: expected control steps of {step_s} s as in the contract, got {simulator.step_s} s; "
            "run the bundle in the simulator it was trained in"
        )
    if (driver.altered is not None) != (spec.control in ("frozen-window", "shuffled-window")):
        raise SimulatorError(f"control {spec.control!r}: window controls, and only they, have a second session")


__all__ = ["Driver", "EpisodeFrame", "EpisodeResult", "EpisodeSpec", "FrameHook", "run_episode"]
