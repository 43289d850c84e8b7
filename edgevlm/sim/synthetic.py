"""Made-up observations that fit a contract: for profiles and benchmarks, never for fidelity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from edgevlm.manifest.contract import SECOND_NS, Contract, Observation, Stamped

FRAMES_KEPT = 16
STEPS_PER_INSTRUCTION = 25


def synthetic_observations(contract: Contract, instructions: Sequence[str], *, seed: int) -> Iterator[Observation]:
    """Endless observations at the slowest camera rate: noise pictures, states around the mean, instructions in turn."""
    generator = np.random.default_rng(seed)
    pictures = {
        camera.name: [generator.integers(0, 256, camera.shape, np.uint8) for _ in range(FRAMES_KEPT)]
        for camera in contract.cameras
    }
    period_ns = round(SECOND_NS / min(camera.rate_hz[0] for camera in contract.cameras))
    fields = contract.state.fields if contract.state else ()
    mean = np.array([field.mean for field in fields])
    std = np.array([field.std for field in fields])
    for step in count():
        stamp_ns = SECOND_NS + step * period_ns
        frames = {name: Stamped(kept[step % FRAMES_KEPT], stamp_ns) for name, kept in pictures.items()}
        state = (mean + std * generator.standard_normal(len(fields))).astype(np.float32)
        yield Observation(
            frames=frames,
            state=Stamped(state, stamp_ns) if contract.state else None,
            instruction=instructions[step // STEPS_PER_INSTRUCTION % len(instructions)],
        )
