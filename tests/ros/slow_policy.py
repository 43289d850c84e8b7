"""policy_node over a policy whose every step takes SECONDS longer, also the ones that are measured before the first.

python slow_policy.py SECONDS --ros-args ...
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import edgevlm
from edgevlm.manifest.contract import ActionChunk, Observation
from edgevlm.options import RuntimeOptions
from edgevlm_ros.lifecycle_node import run
from edgevlm_ros.policy_node import PolicyNode

SLOW_S = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0


class SlowSession:
    def __init__(self, session: Any) -> None:
        self._session = session

    @property
    def last_times_ns(self) -> Mapping[str, int]:
        return self._session.last_times_ns  # type: ignore[no-any-return]

    def push(self, camera: str, frame: Any) -> None:
        self._session.push(camera, frame)

    def act(self, observation: Observation) -> ActionChunk:
        time.sleep(SLOW_S)
        return self._session.act(observation)  # type: ignore[no-any-return]


class SlowPolicy:
    def __init__(self, path: str, options: RuntimeOptions) -> None:
        self._policy = edgevlm.load_policy(path, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def step_times_ns(self) -> list[int]:
        return [taken + round(SLOW_S * 1e9) for taken in self._policy.step_times_ns()]

    def session(self) -> SlowSession:
        return SlowSession(self._policy.session())


if __name__ == "__main__":
    run(lambda: PolicyNode(SlowPolicy))
