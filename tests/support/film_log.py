"""Recordings of a robot that does not exist: coarse pictures that change with the instruction and drift with time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgevlm.data import LogWriter
from edgevlm.manifest.contract import SECOND_NS, Contract

COMMANDS = ("push the red cup", "push the blue cup", "pull the red cup", "lift the blue cup")


def write_log(
    path: Path, contract: Contract, *, episodes: int = 8, steps: int = 12, commands: Sequence[str] = COMMANDS
) -> Path:
    """`episodes` episodes of `steps` frames at 10 Hz and states at 20 Hz, by the topic convention."""
    generator = np.random.default_rng(1)
    period_ns = SECOND_NS // 10
    with LogWriter(path) as log:
        for episode in range(episodes):
            start_ns = (1 + 10 * episode) * SECOND_NS
            log.string("/instruction", start_ns, commands[episode % len(commands)])
            coarse = {camera.name: generator.integers(0, 256, (6, 8, 3), np.uint8) for camera in contract.cameras}
            for step in range(steps):
                stamp_ns = start_ns + step * period_ns
                for half in (0, period_ns // 2):
                    angles = 0.1 + 0.5 * generator.standard_normal(2)
                    log.joints("/joint_states", stamp_ns + half, dict(zip(("j1", "j2"), angles, strict=True)))
                for camera in contract.cameras:
                    full = np.kron(coarse[camera.name], np.ones((5, 5, 1), np.uint8))
                    log.image(f"/{camera.name}/image_raw", stamp_ns, np.roll(full, step, 1), encoding=camera.encoding)
    return path
