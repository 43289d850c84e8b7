"""Negative controls: what the robot does when a part of its input is taken away. Each must change what it does.

`wrong-command` says another command than the one judged. `blank-image` shows mid gray. `frozen-window` shows the newest
frame in every slot of the window; `shuffled-window` shows the true frames in another order. The window is changed from
outside, with `reset` and `push` of a second session: no switch inside the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.contract import SECOND_NS, ActionChunk, Contract, Observation, Stamped
from edgevlm.temporal import nearest

Control = Literal["none", "wrong-command", "blank-image", "frozen-window", "shuffled-window"]
CONTROLS: tuple[Control, ...] = get_args(Control)
GRAY = 128

Frame = Stamped[NDArray[np.uint8]]


class SessionLike(Protocol):
    """The verbs of a policy's session that a closed loop needs."""

    def act(self, observation: Observation) -> ActionChunk: ...

    def push(self, camera: str, frame: Frame) -> None: ...

    def reset(self) -> None: ...

    @property
    def encodes(self) -> int: ...

    @property
    def sampled_frames(self) -> int: ...


def blank(observation: Observation) -> Observation:
    """The same observation with mid gray frames."""
    frames = {
        name: Stamped(np.full_like(frame.value, GRAY), frame.stamp_ns) for name, frame in observation.frames.items()
    }
    return Observation(frames=frames, state=observation.state, instruction=observation.instruction)


def other_command(commands: tuple[str, ...], command: str, *, seed: int) -> str:
    """One of the other commands, uniformly, a function of the seed."""
    others = [name for name in commands if name != command]
    return others[int(np.random.default_rng([seed, 77]).integers(len(others)))]


class History:
    """The frames of an episode as far back as the window reaches; oldest first."""

    def __init__(self, contract: Contract) -> None:
        self._window = contract.window
        self._reach_ns = round((self._window.tolerance_s - self._window.offsets_s[0]) * SECOND_NS)
        self.frames: dict[str, list[Frame]] = {camera.name: [] for camera in contract.cameras}

    def add(self, observation: Observation) -> list[str]:
        """Take frames with a new stamp; the cameras that had one."""
        fresh = []
        for name, frame in observation.frames.items():
            known = self.frames[name]
            if known and frame.stamp_ns <= known[-1].stamp_ns:
                continue
            known.append(frame)
            fresh.append(name)
            while len(known) > 1 and known[1].stamp_ns <= frame.stamp_ns - self._reach_ns:
                known.pop(0)
        return fresh

    def slots(self, camera: str, now_ns: int) -> list[Frame]:
        """The true frame for each slot, oldest slot first; a slot before the first frame shows that one."""
        known = self.frames[camera]
        stamps = [frame.stamp_ns for frame in known]
        return [known[nearest(stamps, now_ns + round(offset * SECOND_NS))] for offset in self._window.offsets_s]


class WindowControl:
    """Acts on a window whose older slots are frozen or shuffled, through a session's public verbs."""

    def __init__(self, session: SessionLike, contract: Contract, kind: Control, *, seed: int) -> None:
        self._session = session
        self._contract = contract
        self._kind = kind
        self._generator = np.random.default_rng([seed, 78])

    def act(self, observation: Observation, history: History) -> ActionChunk:
        """The chunk for the altered window; the newest slot is left as it is.

        Slots get the stamps that the window asks for, so that each is filled by exactly the frame meant for it.
        """
        self._session.reset()
        now_ns = max(frame.stamp_ns for frame in observation.frames.values())
        offsets_ns = [round(offset * SECOND_NS) for offset in self._contract.window.offsets_s[:-1]]
        order = self._order(len(offsets_ns))
        for name, newest in observation.frames.items():
            true = history.slots(name, now_ns)
            for slot, offset_ns in enumerate(offsets_ns):
                source = newest if self._kind == "frozen-window" else true[order[slot]]
                self._session.push(name, Stamped(source.value, now_ns + offset_ns))
        return self._session.act(observation)

    def _order(self, slots: int) -> NDArray[np.int64]:
        """Which older slot's frame is shown in each older slot: never the true order where there are two or more."""
        order = np.arange(slots)
        while slots > 1 and np.array_equal(order, np.arange(slots)):
            order = self._generator.permutation(slots)
        return order


class ActionChange:
    """Mean absolute difference between the chunks of two windows over the same observations, per column."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._differences: list[NDArray[np.float64]] = []
        self._sizes: list[NDArray[np.float64]] = []

    def add(self, plain: ActionChunk, altered: ActionChunk) -> None:
        """Compare two chunks (K, A) for one observation."""
        self._differences.append(np.abs(plain.values.astype(np.float64) - altered.values).mean(axis=0))
        self._sizes.append(np.abs(plain.values.astype(np.float64)).mean(axis=0))

    def summary(self) -> Mapping[str, Mapping[str, float]]:
        """Column -> {"mean_abs_change", "mean_abs_plain"} in the column's unit; empty when nothing was compared."""
        if not self._differences:
            return {}
        change, size = np.mean(self._differences, axis=0), np.mean(self._sizes, axis=0)
        return {
            name: {"mean_abs_change": float(change[i]), "mean_abs_plain": float(size[i])}
            for i, name in enumerate(self._names)
        }
