"""policy_node whose model fails on demand: a wrapper around the real one, and nothing else is changed.

python -m ros.chaos.faulty_policy FILE SECONDS --ros-args ...
    FILE: JSON {"mode": MODE}, read before every step
    SECONDS: what every step takes more, in whatever mode, also those that the node measures before the first

ok      as it is, within the contract's limits: without a fault no gate has anything to do
raise   every step raises
slow    a step takes ten times the 0.1 s that it may take
wild    finite rows, six times what the contract allows, the sign changing from chunk to chunk
nan     one number of each chunk is not finite
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.load import load
from edgevlm.loop.matching import Frame
from edgevlm.manifest.contract import ActionChunk, Observation
from edgevlm.options import RuntimeOptions
from edgevlm_ros.lifecycle_node import run
from edgevlm_ros.policy_node import PolicyNode

SLOW_S = 1.0
_WILD = 6.0


class FaultySession:
    """A session that does as the file says."""

    def __init__(
        self, session: Any, path: Path, slower_s: float, limits: tuple[NDArray[np.float32], NDArray[np.float32]]
    ) -> None:
        self._session, self._path, self._slower_s, self._limits = session, path, slower_s, limits

    @property
    def last_times_ns(self) -> Mapping[str, int]:
        return self._session.last_times_ns  # type: ignore[no-any-return]

    def push(self, camera: str, frame: Frame) -> None:
        self._session.push(camera, frame)

    def act(self, observation: Observation) -> ActionChunk:
        mode = json.loads(self._path.read_text())["mode"]
        if mode == "raise":
            raise RuntimeError("the model broke")
        if mode == "slow":
            time.sleep(SLOW_S)
        time.sleep(self._slower_s)
        chunk: ActionChunk = self._session.act(observation)
        values = np.clip(chunk.values, *self._limits)
        if mode == "wild":
            values[:, :-1] = _WILD * self._limits[1][:-1] * (-1) ** chunk.sequence
        elif mode == "nan":
            values[len(values) // 2, 0] = np.nan
        return replace(chunk, values=values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class FaultyPolicy:
    """A policy whose sessions are faulty."""

    def __init__(self, policy: Any, path: Path, slower_s: float) -> None:
        self._policy, self._path, self._slower_s = policy, path, slower_s

    def step_times_ns(self) -> list[int]:
        return [taken + round(self._slower_s * 1e9) for taken in self._policy.step_times_ns()]

    def session(self) -> FaultySession:
        groups = self._policy.contract.action.groups
        lower, upper = (
            np.array([limit for group in groups for limit in getattr(group, side)], np.float32) * np.float32(0.999)
            for side in ("lower", "upper")
        )
        return FaultySession(self._policy.session(), self._path, self._slower_s, (lower, upper))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)


def main() -> None:
    """Run the node."""
    path, slower_s = Path(sys.argv[1]), float(sys.argv[2])

    def open_policy(root: str, options: RuntimeOptions) -> Any:
        return FaultyPolicy(load(root, options), path, slower_s)

    run(lambda: PolicyNode(open_policy))


if __name__ == "__main__":
    main()
