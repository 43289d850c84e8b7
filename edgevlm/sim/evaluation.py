"""Many episodes and their figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pydantic import Field

from edgevlm.bundle import Bundle
from edgevlm.errors import SimulatorError
from edgevlm.manifest.contract import Contract, Spec
from edgevlm.profiler import summarize
from edgevlm.sim.controls import Control, SessionLike
from edgevlm.sim.episode import Clock, Driver, EpisodeResult, EpisodeSpec, FrameHook, run_episode
from edgevlm.sim.simulator import Simulator

_WINDOW_CONTROLS = ("frozen-window", "shuffled-window")


class PolicyLike(Protocol):
    """What an evaluation needs of a policy."""

    @property
    def contract(self) -> Contract: ...

    @property
    def bundle(self) -> Bundle: ...

    def session(self) -> SessionLike: ...

    def warm_up(self) -> None: ...


class EvaluationPlan(Spec):
    """Episode i has the seed `seed + i` and the i-th command in turn, so two bundles meet the same episodes."""

    episodes: int = Field(gt=0)
    seed: int = Field(ge=0)
    commands: tuple[str, ...] = ()  # empty: all that the simulator judges
    variant: str = "plain"
    control: Control = "none"
    latency_s: float = Field(default=0.0, ge=0, le=60)

    def deal(self, known: Sequence[str]) -> list[EpisodeSpec]:
        """The episodes, each command as often as any other (or once less).

        Raises:
            SimulatorError: a command that the simulator does not judge.
        """
        commands = self.commands or tuple(known)
        if unknown := [command for command in commands if command not in known]:
            raise SimulatorError(f"commands {unknown}: expected some of {list(known)}")
        return [
            EpisodeSpec(
                seed=self.seed + i,
                command=commands[i % len(commands)],
                variant=self.variant,
                control=self.control,
                latency_s=self.latency_s,
            )
            for i in range(self.episodes)
        ]


@dataclass(frozen=True)
class Evaluation:
    """The episodes of one plan, with what was spent on them."""

    plan: EvaluationPlan
    results: tuple[EpisodeResult, ...]
    encodes: int
    sampled_frames: int
    bundle_sha256: str

    def to_json(self) -> dict[str, Any]:
        """The figures; `outcomes` are in the order of the seeds. Durations are milliseconds of `act`, warm-up apart."""
        results = self.results
        figures: dict[str, Any] = {
            **_rate([result.success for result in results]),
            "per_command": {
                command: _rate([result.success for result in results if result.command == command])
                for command in dict.fromkeys(result.command for result in results)
            },
            "outcomes": [
                {
                    "seed": result.seed,
                    "command": result.command,
                    "given": result.given,
                    "success": result.success,
                    "given_success": result.given_success,
                    "steps": result.steps,
                }
                for result in results
            ],
            "step_ms": summarize([duration for result in results for duration in result.act_ns]),
            "encodes_per_frame": self.encodes / self.sampled_frames if self.sampled_frames else 0.0,
            "bundle_sha256": self.bundle_sha256,
            "seed": self.plan.seed,
            "variant": self.plan.variant,
            "control": self.plan.control,
            "latency_ms": self.plan.latency_s * 1e3,
        }
        if self.plan.control == "wrong-command":
            figures["given"] = _rate([result.given_success for result in results])
        if self.plan.control in _WINDOW_CONTROLS:
            figures["action_change"] = _mean_change(results)
        return figures


Progress = Callable[[EpisodeResult], None]


@dataclass(frozen=True)
class Watch:
    """Who looks on: after each episode, at each frame, and with which clock `act` is timed."""

    progress: Progress | None = None
    on_frame: FrameHook | None = None
    clock: Clock = time.perf_counter_ns


def evaluate(policy: PolicyLike, simulator: Simulator, plan: EvaluationPlan, watch: Watch | None = None) -> Evaluation:
    """Run the plan's episodes one after the other; the policy is warmed up first.

    Raises:
        SimulatorError: commands or control steps that do not fit.
        EdgevlmError: what `act` raises.
    """
    watch = watch or Watch()
    specs = plan.deal(simulator.commands)
    policy.warm_up()
    session = policy.session()
    altered = policy.session() if plan.control in _WINDOW_CONTROLS else None
    driver = Driver(policy.contract, session, altered, watch.clock, watch.on_frame)
    results = []
    for spec in specs:
        results.append(run_episode(driver, simulator, spec))
        if watch.progress:
            watch.progress(results[-1])
    return Evaluation(
        plan=plan,
        results=tuple(results),
        encodes=session.encodes,
        sampled_frames=session.sampled_frames,
        bundle_sha256=policy.bundle.sha256,
    )


def _rate(successes: Sequence[bool]) -> dict[str, float | int]:
    return {
        "episodes": len(successes),
        "successes": sum(successes),
        "success_rate": sum(successes) / len(successes) if successes else 0.0,
    }


def _mean_change(results: Sequence[EpisodeResult]) -> dict[str, dict[str, float]]:
    """The mean over episodes that compared anything."""
    changes = [result.action_change for result in results if result.action_change]
    if not changes:
        return {}
    return {
        name: {key: float(np.mean([change[name][key] for change in changes])) for key in changes[0][name]}
        for name in changes[0]
    }
