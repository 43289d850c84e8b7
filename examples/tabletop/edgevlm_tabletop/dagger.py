"""Demonstrations where a policy needs them: it drives, the clean expert labels every frame it gets into.

python -m edgevlm_tabletop.dagger checkpoint -o build/demos --first 300000 --episodes 400

DAgger: Ross et al. 2011.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch

from edgevlm_tabletop.commands import COMMANDS, DRIVEN_SEEDS
from edgevlm_tabletop.demos import EPISODES_PER_SHARD, OCCLUDED_SHARE, Shard, record_frame
from edgevlm_tabletop.evaluate import TorchPolicy
from edgevlm_tabletop.experts import MAX_STEP_M
from edgevlm_tabletop.sim import STEPS_PER_FRAME, TabletopSimulator

_NOISY_SHARE = 0.4
_LIMIT_STEPS = 150
_DONE_FRAMES = 2

log = logging.getLogger(__name__)


def record_driven(sim: TabletopSimulator, policy: TorchPolicy, seed: int, shard: Shard) -> bool:
    """Add episode `seed`, driven by the policy; whether its command succeeded."""
    generator = np.random.default_rng([seed, 13])
    command = COMMANDS[int(generator.integers(len(COMMANDS)))].name
    occluded = bool(generator.random() < OCCLUDED_SHARE)
    noise_m = generator.uniform(0.1, 0.4) * MAX_STEP_M if generator.random() < _NOISY_SHARE else 0.0
    sim.reset(seed=seed, command=command, variant="occluded" if occluded else "plain")
    policy.start(sim.phrase(command))
    left = _DONE_FRAMES
    for step in range(0, _LIMIT_STEPS, STEPS_PER_FRAME):
        record_frame(sim, generator, shard, (seed, step, int(occluded)), command)
        chunk, _, _ = policy.act(sim.frame[0], sim.state)
        push = generator.normal(0.0, noise_m, 3) if noise_m else np.zeros(3)
        for values in chunk[:STEPS_PER_FRAME]:
            values[:3] += push
            sim.apply(values)
        left -= int(sim.succeeded(command))
        if left < 0:
            break
    return sim.succeeded(command)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--episodes", type=int, default=400)
    arguments = parser.parse_args()
    if arguments.first not in DRIVEN_SEEDS or arguments.first + arguments.episodes - 1 not in DRIVEN_SEEDS:
        parser.error(f"driven demonstrations use seeds {DRIVEN_SEEDS.start} to {DRIVEN_SEEDS.stop - 1}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    sim, policy = TabletopSimulator(), TorchPolicy(arguments.checkpoint, one_frame=False)
    for start in range(arguments.first, arguments.first + arguments.episodes, EPISODES_PER_SHARD):
        path = arguments.out / f"demos-{start:07d}.npz"
        if path.exists():
            continue
        shard = Shard()
        seeds = range(start, min(start + EPISODES_PER_SHARD, arguments.first + arguments.episodes))
        won = sum(record_driven(sim, policy, seed, shard) for seed in seeds)
        shard.save(path)
        log.info("%s: %d of %d succeeded, %d frames", path.name, won, len(seeds), len(shard.frames))
    sim.close()


if __name__ == "__main__":
    main()
