"""Demonstration shards -> arrays in memory, and batches of segments for training."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm_tabletop.commands import DRIVEN_SEEDS
from edgevlm_tabletop.contract import (
    WINDOW_OFFSETS_S,
    normalise_chunk,
    normalise_state,
    normalise_waypoints,
    shrinker,
)
from edgevlm_tabletop.sim import STEP_S, STEPS_PER_FRAME

WINDOW_LAGS = tuple(round(-offset / (STEP_S * STEPS_PER_FRAME)) for offset in WINDOW_OFFSETS_S)
"""How many frames back each slot of the window looks, oldest first."""

_SHRINK = shrinker()
_DRIVEN_WEIGHT = 2.5


@dataclass(frozen=True, kw_only=True)
class Demos:
    """All frames, episode after episode, and all labels.

    Attributes:
        pixels: (F, H, W, 3) uint8 at the model's size.
        state: (F, 4) normalised.
        objects: (F, 5, 3) the objects' positions relative to the hand, in units of a waypoint.
        episodes: (E, 2) first frame and number of frames; `weight` (E,) how often to draw one of its frames.
        label_at: (F, 2) first label and number of labels of a frame; the first is for the command carried out.
        label: (L, 2) command and step; chunk (L, K, 4), waypoints (L, P, 3) normalised.
    """

    pixels: NDArray[np.uint8]
    state: NDArray[np.float32]
    objects: NDArray[np.float32]
    episodes: NDArray[np.int64]
    weight: NDArray[np.float64]
    label_at: NDArray[np.int64]
    label: NDArray[np.int64]
    chunk: NDArray[np.float32]
    waypoints: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """U frames of some segments, T targets and N samples, two for each target.

    `frames` (U, H, W, 3) uint8, `segment` (U,) the one each belongs to; `slots` (T, window) into the frames; `target`
    (N,) into the targets, with the samples' commands, states, objects and labels.
    """

    frames: NDArray[np.uint8]
    segment: NDArray[np.int64]
    slots: NDArray[np.int64]
    target: NDArray[np.int64]
    command: NDArray[np.int64]
    state: NDArray[np.float32]
    objects: NDArray[np.float32]
    step: NDArray[np.int64]
    chunk: NDArray[np.float32]
    waypoints: NDArray[np.float32]


def shrink(jpeg: bytes) -> NDArray[np.uint8]:
    """A stored frame at the model's size, (H, W, 3), by the runtime's own resize."""
    with Image.open(BytesIO(jpeg)) as image:
        pixels = _SHRINK(np.asarray(image))
    return np.ascontiguousarray(pixels[0].transpose(1, 2, 0)).astype(np.uint8)


def _pixels(path: Path, shard: dict[str, NDArray[np.generic]]) -> NDArray[np.uint8]:
    cache = path.with_suffix(".pixels.npy")
    if cache.exists():
        return np.asarray(np.load(cache), np.uint8)
    ends = shard["jpeg_end"].astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    raw = shard["jpeg"]
    with ThreadPoolExecutor(2) as pool:
        images = list(pool.map(lambda span: shrink(raw[span[0] : span[1]].tobytes()), zip(starts, ends, strict=True)))
    pixels = np.stack(images)
    np.save(cache, pixels)
    return pixels


def load(folder: Path) -> Demos:
    """All shards of a folder in the order of their names.

    Raises:
        FileNotFoundError: the folder has none.
    """
    paths = sorted(folder.glob("demos-*.npz"))
    if not paths:
        raise FileNotFoundError(
            f"no demos-*.npz in {folder}; make some with: python -m edgevlm_tabletop.demos -o {folder}"
        )
    shards = [dict(np.load(path)) for path in paths]
    pixels = np.concatenate([_pixels(path, shard) for path, shard in zip(paths, shards, strict=True)])
    first = np.cumsum([0, *(len(shard["frame"]) for shard in shards)])
    for shard in shards:
        shard.pop("jpeg")
    joined = {
        key: np.concatenate([shard[key] for shard in shards])
        for key in ("frame", "state", "objects", "chunk", "waypoints")
    }
    label = np.concatenate(
        [shard["label"] + (start, 0, 0) for shard, start in zip(shards, first, strict=False)]
    ).astype(np.int64)
    hand = joined["state"][:, :3]
    starts = np.flatnonzero(joined["frame"][:, 1] == 0)
    lengths = np.diff(np.append(starts, len(hand)))
    label_first = np.searchsorted(label[:, 0], np.arange(len(hand)))
    label_count = np.diff(np.append(label_first, len(label)))
    return Demos(
        pixels=pixels,
        state=normalise_state(joined["state"]),
        objects=normalise_waypoints(joined["objects"], hand),
        episodes=np.stack([starts, lengths], 1),
        weight=np.where(joined["frame"][starts, 0] >= DRIVEN_SEEDS.start, _DRIVEN_WEIGHT, 1.0),
        label_at=np.stack([label_first, label_count], 1),
        label=label[:, 1:],
        chunk=normalise_chunk(joined["chunk"]),
        waypoints=normalise_waypoints(joined["waypoints"], hand[label[:, 0]]),
    )


def object_of(command: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index into `Demos.objects` of the thing a command is about: groups of three colours, then button and drawer."""
    return np.where(command < 12, command % 3, np.where(command == 12, 3, 4))


def batches(
    demos: Demos, generator: np.random.Generator, *, segments: int, targets: int, single_share: float
) -> Iterator[Batch]:
    """Endless batches: `segments` runs of `targets` neighbouring frames, each with the command carried out and another.

    Frames are shared by the windows of a run. In `single_share` of the targets all slots hold the newest frame.
    """
    weights = demos.weight * demos.episodes[:, 1]
    weights /= weights.sum()
    lags = np.array(WINDOW_LAGS)
    while True:
        chosen = generator.choice(len(weights), segments, p=weights)
        first, length = demos.episodes[chosen].T
        begin = (generator.random(segments) * np.maximum(length - targets + 1, 1)).astype(np.int64)
        now = np.minimum(begin[:, None] + np.arange(targets), length[:, None] - 1)  # (segments, targets)
        indices = np.maximum(now[:, :, None] - lags, 0) + first[:, None, None]
        single = generator.random(now.shape) < single_share
        indices = np.where(single[:, :, None], indices[:, :, -1:], indices)
        unique, slots = np.unique(indices, return_inverse=True)
        frame = (now + first[:, None]).ravel()
        yield _batch(demos, generator, unique, slots.reshape(-1, len(lags)), frame)


def _batch(
    demos: Demos,
    generator: np.random.Generator,
    unique: NDArray[np.int64],
    slots: NDArray[np.int64],
    frame: NDArray[np.int64],
) -> Batch:
    start, count = demos.label_at[frame].T
    other = 1 + (generator.random(len(frame)) * (count - 1)).astype(np.int64)
    label = np.concatenate([start, start + np.minimum(other, count - 1)])
    target = np.tile(np.arange(len(frame)), 2)
    command = demos.label[label, 0]
    return Batch(
        frames=demos.pixels[unique],
        segment=np.searchsorted(demos.episodes[:, 0], unique, side="right"),
        slots=slots,
        target=target,
        command=command,
        state=demos.state[frame[target]],
        objects=demos.objects[frame[target], object_of(command)],
        step=demos.label[label, 1],
        chunk=demos.chunk[label],
        waypoints=demos.waypoints[label],
    )
