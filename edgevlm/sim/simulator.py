"""What a simulated robot must offer to be driven, and how an installed one is found."""

from __future__ import annotations

from importlib import metadata
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import SimulatorError
from edgevlm.manifest.contract import Observation

GROUP = "edgevlm.simulators"  # the entry point group


class Simulator(Protocol):
    """A robot that stands still between calls. Not thread-safe; every episode is a function of its seed.

    Attributes:
        commands: names of what it can judge.
        step_s: duration of one control step.
    """

    commands: tuple[str, ...]
    step_s: float

    def reset(self, *, seed: int, command: str, variant: str = "plain") -> None:
        """Start an episode; `variant` is a kind of scene that the simulator knows."""

    def phrase(self, command: str) -> str:
        """The instruction for `command` in this episode."""

    def observe(self, instruction: str) -> Observation:
        """The newest frames and the state now, with simulated stamps. Frames must not change afterwards."""

    def apply(self, values: NDArray[np.float32]) -> None:
        """One control step with an action (A,) in the contract's columns and units."""

    def rest(self) -> None:
        """One control step in which no command came: the robot holds still as its controller does."""

    def succeeded(self, command: str) -> bool:
        """Whether `command` has been fulfilled in this episode."""

    @property
    def finished(self) -> bool:
        """Whether the step limit is reached."""

    def close(self) -> None:
        """Free what it holds."""


def open_simulator(name: str) -> Simulator:
    """An installed simulator by its name, through the entry points of the group `edgevlm.simulators`.

    Raises:
        SimulatorError: none of that name is installed, or it does not start; the message lists those there are.
    """
    points = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if name not in points:
        raise SimulatorError(
            f"simulator {name!r}: expected one of the installed {sorted(points)}; "
            f"install the package that brings it (entry point group {GROUP!r})"
        )
    try:
        simulator: Any = points[name].load()()
    except (ImportError, AttributeError, OSError, RuntimeError, ValueError) as error:
        raise SimulatorError(
            f"simulator {name!r} ({points[name].value}) does not start: {error}; install what it needs "
            "(in your clone: pip install '.[sim]') and check that pictures can be rendered off-screen "
            "(MUJOCO_GL=osmesa or egl)"
        ) from error
    typed: Simulator = simulator
    return typed
