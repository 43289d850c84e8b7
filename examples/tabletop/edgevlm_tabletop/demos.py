"""Demonstrations: noisy episodes of the experts, labelled with what the clean expert would do from every frame.

    python -m edgevlm_tabletop.demos -o build/demos --first 0 --episodes 1300

Noise goes into what is executed (DART, Laskey et al. 2017), never into the labels; every frame is also labelled for
commands other than the one being carried out, which costs no rendering and makes reading the only way to be right.
"""

from __future__ import annotations

import argparse
import io
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm_tabletop.commands import BY_NAME, COMMANDS, DEMO_SEEDS
from edgevlm_tabletop.experts import MAX_STEP_M, STEPS, Move, World, expert
from edgevlm_tabletop.scene import COLOURS
from edgevlm_tabletop.sim import STEPS_PER_FRAME, TabletopSimulator, clean_rollout

CHUNK_STEPS = 8
WAYPOINT_STEPS = (8, 16, 24, 32)
EPISODES_PER_SHARD = 25
OCCLUDED_SHARE, NOISY_SHARE = 0.35, 0.7
_EARLY_FRAMES, _EARLY_EXTRA, _LATE_EXTRA = 4, 3, 1
_DONE_STEPS = 8

log = logging.getLogger(__name__)


@dataclass
class Shard:
    """Frames of some episodes and their labels, as growing lists; `save` makes one .npz of plain arrays."""

    jpegs: list[bytes] = field(default_factory=list)
    frames: list[tuple[int, int, int]] = field(default_factory=list)
    states: list[NDArray[np.float32]] = field(default_factory=list)
    objects: list[NDArray[np.float32]] = field(default_factory=list)
    labels: list[tuple[int, int, int]] = field(default_factory=list)
    chunks: list[NDArray[np.float32]] = field(default_factory=list)
    waypoints: list[NDArray[np.float32]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write atomically. Arrays: see `edgevlm_tabletop.data.load`."""
        ends = np.cumsum([len(jpeg) for jpeg in self.jpegs])
        arrays = {
            "jpeg": np.frombuffer(b"".join(self.jpegs), np.uint8),
            "jpeg_end": ends.astype(np.int64),
            "frame": np.array(self.frames, np.int32),  # (F, 3): seed, step, occluded
            "state": np.stack(self.states),  # (F, 4)
            "objects": np.stack(self.objects),  # (F, 5, 3)
            "label": np.array(self.labels, np.int32),  # (L, 3): frame, command, step
            "chunk": np.stack(self.chunks),  # (L, 8, 4)
            "waypoints": np.stack(self.waypoints),  # (L, 4, 3)
        }
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        partial.rename(path)


class Disturbance:
    """Noise on executed actions: slow drift, white noise and, now and then, a shove."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        noisy = generator.random() < NOISY_SHARE
        self.noisy = noisy
        self._scale = generator.uniform(0.15, 0.8) * MAX_STEP_M if noisy else 0.0
        self._shove_rate = 0.03 if noisy and generator.random() < 0.4 else 0.0
        self._drift = np.zeros(3)
        self._shove, self._shove_left = np.zeros(3), 0

    def __call__(self, move: Move) -> NDArray[np.float32]:
        values = move.values()
        if not self.noisy:
            return values
        self._drift = 0.9 * self._drift + 0.44 * self._generator.normal(0.0, self._scale, 3)
        if self._shove_left == 0 and self._generator.random() < self._shove_rate:
            self._shove_left = int(self._generator.integers(5, 14))
            self._shove = self._generator.uniform(-1, 1, 3) * MAX_STEP_M * 1.6
        shove = self._shove if self._shove_left > 0 else np.zeros(3)
        self._shove_left = max(self._shove_left - 1, 0)
        values[:3] += self._drift + shove + self._generator.normal(0.0, 0.4 * self._scale, 3)
        return values


def record_episode(sim: TabletopSimulator, seed: int, shard: Shard) -> bool:
    """Add episode `seed` to `shard`; whether the command succeeded."""
    generator = np.random.default_rng([seed, 3])
    command = COMMANDS[int(generator.integers(len(COMMANDS)))]
    occluded = bool(generator.random() < OCCLUDED_SHARE)
    sim.reset(seed=seed, command=command.name, variant="occluded" if occluded else "plain")
    disturb = Disturbance(generator)
    left = _DONE_STEPS
    index = 0
    while not sim.finished and left > 0:
        if index % STEPS_PER_FRAME == 0:
            record_frame(sim, generator, shard, (seed, index, int(occluded)), command.name)
        move = expert(sim.world(), command)
        sim.apply(disturb(move))
        index += 1
        left -= int(sim.succeeded(command.name))
    return sim.succeeded(command.name)


def record_frame(
    sim: TabletopSimulator, generator: np.random.Generator, shard: Shard, key: tuple[int, int, int], command: str
) -> None:
    """Add the newest frame with its labels; `key` is the seed, the step in the episode and whether it is occluded."""
    image, _ = sim.frame
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(generator.integers(70, 96)))
    shard.jpegs.append(buffer.getvalue())
    shard.frames.append(key)
    shard.states.append(sim.state)
    shard.objects.append(object_positions(sim.world()))
    extra = _EARLY_EXTRA if key[1] < _EARLY_FRAMES * STEPS_PER_FRAME else _LATE_EXTRA
    others = [name for name in sim.commands if name != command]
    for name in (command, *generator.choice(others, extra, replace=False)):
        add_label(sim, str(name), shard)


def add_label(sim: TabletopSimulator, command: str, shard: Shard) -> None:
    """Label the newest frame of `shard` with the clean expert's plan for `command` from the present state."""
    with sim.coarse_physics():
        actions, hands, step = clean_rollout(sim, command, WAYPOINT_STEPS[-1])
    shard.labels.append((len(shard.frames) - 1, COMMANDS.index(BY_NAME[command]), STEPS.index(step)))
    shard.chunks.append(actions[:CHUNK_STEPS])
    shard.waypoints.append(hands[[after - 1 for after in WAYPOINT_STEPS]])


def object_positions(world: World) -> NDArray[np.float32]:
    """Red, green, blue puck, button and drawer handle, metres, (5, 3)."""
    return np.stack([*(world.pucks[c] for c in COLOURS), world.button, world.handle]).astype(np.float32)


def generate(out: Path, first: int, episodes: int) -> None:
    """Write shards of episodes `first` .. `first + episodes - 1`; shards already there are kept."""
    out.mkdir(parents=True, exist_ok=True)
    sim = TabletopSimulator()
    for start in range(first, first + episodes, EPISODES_PER_SHARD):
        path = out / f"demos-{start:07d}.npz"
        if path.exists():
            continue
        shard, won = Shard(), 0
        seeds = range(start, min(start + EPISODES_PER_SHARD, first + episodes))
        for seed in seeds:
            won += record_episode(sim, seed, shard)
        shard.save(path)
        log.info(
            "%s: %d of %d succeeded, %d frames, %d labels",
            path.name,
            won,
            len(seeds),
            len(shard.frames),
            len(shard.labels),
        )
    sim.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=DEMO_SEEDS.start)
    parser.add_argument("--episodes", type=int, default=1300)
    arguments = parser.parse_args()
    if arguments.first not in DEMO_SEEDS or arguments.first + arguments.episodes - 1 not in DEMO_SEEDS:
        parser.error(f"demonstrations use seeds {DEMO_SEEDS.start} to {DEMO_SEEDS.stop - 1}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    generate(arguments.out, arguments.first, arguments.episodes)


if __name__ == "__main__":
    main()
