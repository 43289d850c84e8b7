"""Made-up episodes that fit a contract: a smoke test where there is no recording, and said to be one in the record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as VocabularyReader

from edgevlm.data.base import Data, Episode
from edgevlm.errors import InstructionError
from edgevlm.manifest.contract import SECOND_NS, CameraSpec, Contract, InstructionSpec, Observation, Stamped
from edgevlm.text import Tokenizer

EPISODES = 4
STEPS = 12
BLOCKS = 8  # a picture is this many coarse blocks wide, plus fine noise
FULL = 255
START = "start"


def make_up(contract: Contract, tokenizer: Path | None, seed: int = 0) -> Data:
    """Seeded pictures, states around the mean and instructions of known words; all episodes are held out.

    A model that takes no words has no tokenizer, and is told START.

    Raises:
        InstructionError: no word of the vocabulary makes an instruction that the contract takes.
    """
    if tokenizer is None or contract.instruction is None:
        texts: tuple[str, ...] = (START,)
    else:
        texts = instructions(tokenizer, contract.instruction, EPISODES)
    episodes = tuple(
        Episode(
            index,
            texts[index % len(texts)],
            SECOND_NS,
            STEPS,
            _opener(contract, texts[index % len(texts)], seed + index),
        )
        for index in range(EPISODES)
    )
    return Data("synthetic", "", (), episodes)


def instructions(path: Path, spec: InstructionSpec, count: int) -> tuple[str, ...]:
    """Up to `count` one-word instructions that the tokenizer takes."""
    runtime = Tokenizer(path, spec)
    vocabulary = VocabularyReader.from_file(str(path)).get_vocab(with_added_tokens=False)
    found: list[str] = []
    for word in sorted(vocabulary):
        if not word.isalpha() or len(found) == count:
            continue
        try:
            runtime.encode(word)
        except InstructionError:
            continue
        found.append(word)
    if not found:
        raise InstructionError(
            f"{path}: expected a word that makes an instruction, found none of "
            f"{len(vocabulary)}; verify with --data LOG"
        )
    return tuple(found)


def _opener(contract: Contract, instruction: str, seed: int) -> Callable[[], Iterator[Observation]]:
    return partial(_observations, contract, instruction, seed)


def _observations(contract: Contract, instruction: str, seed: int) -> Iterator[Observation]:
    generator = np.random.default_rng(seed)
    period_ns = round(SECOND_NS / min(camera.rate_hz[0] for camera in contract.cameras))
    fields = contract.state.fields if contract.state else ()
    mean, std = np.array([field.mean for field in fields]), np.array([field.std for field in fields])
    scenes = {camera.name: _picture(camera, generator) for camera in contract.cameras}
    for step in range(STEPS):
        stamp_ns = SECOND_NS + step * period_ns
        frames = {
            camera.name: Stamped(_changed(scenes[camera.name], generator), stamp_ns) for camera in contract.cameras
        }
        state = (mean + std * generator.standard_normal(len(fields))).astype(np.float32)
        yield Observation(frames, Stamped(state, stamp_ns) if contract.state else None, instruction)


def _picture(camera: CameraSpec, generator: np.random.Generator) -> NDArray[np.uint8]:
    rows, columns, *channels = camera.shape
    coarse = generator.integers(0, FULL + 1, (BLOCKS, BLOCKS, *channels), np.uint8)
    tall, wide = _repeats(rows), _repeats(columns)
    picture: NDArray[np.uint8] = np.repeat(np.repeat(coarse, tall, 0), wide, 1)[:rows, :columns]
    return np.ascontiguousarray(picture)


def _repeats(size: int) -> int:
    return -(-size // BLOCKS)


def _changed(scene: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """The scene moved a little to the side, with sensor noise."""
    moved = np.roll(scene, int(generator.integers(-3, 4)), 1).astype(np.int16)
    noisy: NDArray[np.uint8] = np.clip(moved + generator.integers(-8, 9, scene.shape), 0, FULL).astype(np.uint8)
    return noisy
