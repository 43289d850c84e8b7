"""policy_node over a policy that raises for one instruction, and is slow for another; else it is the real one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from support.tiny import COMMANDS

import edgevlm
from edgevlm.manifest.contract import ActionChunk, Observation
from edgevlm.options import RuntimeOptions
from edgevlm_ros.lifecycle_node import run
from edgevlm_ros.policy_node import PolicyNode

SLOW, RAISES = COMMANDS[1], COMMANDS[2]
SLOW_S = 0.15


class FaultySession:
    def __init__(self, session: Any) -> None:
        self._session = session

    @property
    def last_times_ns(self) -> Mapping[str, int]:
        return self._session.last_times_ns  # type: ignore[no-any-return]

    def push(self, camera: str, frame: Any) -> None:
        self._session.push(camera, frame)

    def act(self, observation: Observation) -> ActionChunk:
        if observation.instruction == RAISES:
            raise RuntimeError("the model broke")
        if observation.instruction == SLOW:
            time.sleep(SLOW_S)
        return self._session.act(observation)  # type: ignore[no-any-return]


class FaultyPolicy:
    def __init__(self, path: str, options: RuntimeOptions) -> None:
        self._policy = edgevlm.load_policy(path, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def session(self) -> FaultySession:
        return FaultySession(self._policy.session())


if __name__ == "__main__":
    run(lambda: PolicyNode(FaultyPolicy))
