"""Train the tabletop policy by imitation.

    python -m edgevlm_tabletop.train --demos build/demos -o checkpoint --seed 1 --steps 6000

The image trunk runs once per frame of a segment and serves every window and every command on it. The exponential
average of the weights is what is saved.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn import functional

from edgevlm_export.models.film_policy import CameraInput, FilmPolicy, FilmPolicyConfig
from edgevlm_tabletop.contract import (
    MAX_TOKENS,
    MODEL_HEIGHT,
    MODEL_WIDTH,
    PIXEL_MEAN,
    PIXEL_STD,
    WINDOW_OFFSETS_S,
    described,
)
from edgevlm_tabletop.data import Batch, Demos, batches, load
from edgevlm_tabletop.demos import CHUNK_STEPS, WAYPOINT_STEPS
from edgevlm_tabletop.experts import STEPS
from edgevlm_tabletop.scene import CAMERA
from edgevlm_tabletop.words import Sentences, build_tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about the training that is not data."""

    seed: int
    steps: int
    segments: int = 10
    targets: int = 8
    single_share: float = 0.15
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    final_share: float = 0.02
    world: int = 1
    weight_decay: float = 1e-2
    ema: float = 0.998
    waypoint_weight: float = 0.5
    step_weight: float = 0.1
    object_weight: float = 0.3


def model_config() -> FilmPolicyConfig:
    """The architecture of the shipped checkpoint."""
    return FilmPolicyConfig(
        cameras=(CameraInput(name=CAMERA, width=MODEL_WIDTH, height=MODEL_HEIGHT),),
        shared_trunk=True,
        window=len(WINDOW_OFFSETS_S),
        vocabulary=build_tokenizer().get_vocab_size(),
        max_tokens=MAX_TOKENS,
        state_size=4,
        chunk_steps=CHUNK_STEPS,
        action_size=4,
        waypoints=len(WAYPOINT_STEPS),
        waypoint_size=3,
        plan_steps=len(STEPS),
        stem_width=32,
        map_width=64,
        text_width=64,
        text_layers=1,
        text_heads=4,
        fusion_blocks=2,
        keypoints=32,
        hidden=384,
    )


def augment(frames: NDArray[np.uint8], segment: NDArray[np.int64], generator: torch.Generator) -> Tensor:
    """(U, H, W, 3) uint8 -> normalised (U, 3, H, W): one light and colour for a segment, noise for each pixel."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float().div_(255.0)
    group = torch.from_numpy(segment - segment.min())
    count = int(group.max()) + 1

    def draw(channels: int, low: float, high: float) -> Tensor:
        return (torch.rand(count, channels, 1, 1, generator=generator) * (high - low) + low)[group]

    gain = draw(1, 0.7, 1.3) * draw(3, 0.92, 1.08)
    pixels = (pixels - 0.5) * draw(1, 0.85, 1.15) + 0.5
    noise = torch.randn(pixels.shape, generator=generator) * draw(1, 0.0, 0.03)
    pixels = (pixels * gain + draw(1, -0.05, 0.05) + noise).clamp_(0.0, 1.0)
    return pixels.sub_(PIXEL_MEAN).div_(PIXEL_STD).contiguous(memory_format=torch.channels_last)


class _ChannelsLast(torch.autograd.Function):
    """Identity that keeps maps and gradients channels-last; indexing would turn them over, which costs a fifth."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        return maps.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous(memory_format=torch.channels_last)


def _take(maps: Tensor, index: NDArray[np.int64]) -> Tensor:
    channels_last: Tensor = _ChannelsLast.apply(maps)  # type: ignore[no-untyped-call]
    return channels_last[torch.from_numpy(index)]


class Trainer:
    """A model, its average and the optimiser."""

    def __init__(self, recipe: Recipe, demos: Demos, rank: int) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.model = FilmPolicy(model_config()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.locate = nn.Linear(self.model.config.hidden, 3)
        self.average = copy.deepcopy(self.model).eval()
        weights = [*self.model.parameters(), *self.locate.parameters()]
        self.optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self._weights = weights
        self._numpy, self._torch = (
            np.random.default_rng([recipe.seed, 11, rank]),
            torch.Generator().manual_seed(recipe.seed + 1000 * rank),
        )
        self._sentences = Sentences(build_tokenizer())
        self._batches = batches(
            demos, self._numpy, segments=recipe.segments, targets=recipe.targets, single_share=recipe.single_share
        )

    def _rate(self, step: int) -> float:
        recipe = self.recipe
        if step < recipe.warmup_steps:
            return recipe.learning_rate * (step + 1) / recipe.warmup_steps
        done = (step - recipe.warmup_steps) / max(recipe.steps - recipe.warmup_steps, 1)
        share = recipe.final_share
        return recipe.learning_rate * (share + (1.0 - share) * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))))

    def step(self, index: int) -> dict[str, float]:
        """One optimiser step; the losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(index)
        losses = self._losses(next(self._batches))
        total = losses["loss"]
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self._share_gradients()
        nn.utils.clip_grad_norm_(self._weights, 1.0)
        self.optimizer.step()
        self._average(min(self.recipe.ema, (1 + index) / (10 + index)))
        return {name: float(value.detach()) for name, value in losses.items()}

    def _share_gradients(self) -> None:
        """The mean over all processes, where there are several."""
        if self.recipe.world == 1:
            return
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient) / self.recipe.world)

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        recipe, model = self.recipe, self.model.train()
        ids, mask = self._sentences.draw(batch.command, self._numpy)
        pixels = augment(batch.frames, batch.segment, self._torch)
        with torch.autocast("cpu", torch.bfloat16):
            maps = model.vision(CAMERA)(pixels)
            slots = [_take(maps, batch.slots[:, slot]) for slot in range(batch.slots.shape[1])]
            (pooled,) = model.pool(*slots)
            text = model.text(torch.from_numpy(ids), torch.from_numpy(mask))
            joint = model.head.describe(text, torch.from_numpy(batch.state), _take(pooled, batch.target))
            chunk, waypoints, logits = (out.float() for out in model.head.decide(joint))
            where = self.locate(joint).float()
        losses = {
            "chunk": functional.l1_loss(chunk, torch.from_numpy(batch.chunk)),
            "waypoints": functional.l1_loss(waypoints, torch.from_numpy(batch.waypoints)),
            "step": functional.cross_entropy(logits, torch.from_numpy(batch.step)),
            "object": functional.l1_loss(where, torch.from_numpy(batch.objects)),
        }
        weighted = (
            losses["chunk"]
            + recipe.waypoint_weight * losses["waypoints"]
            + recipe.step_weight * losses["step"]
            + recipe.object_weight * losses["object"]
        )
        hit = (logits.argmax(1) == torch.from_numpy(batch.step)).float().mean()
        return {"loss": weighted, **losses, "step_accuracy": hit}

    @torch.no_grad()
    def _average(self, keep: float) -> None:
        for average, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
            average.lerp_(new, 1.0 - keep)
        for average, new in zip(self.average.buffers(), self.model.buffers(), strict=True):
            if average.is_floating_point():
                average.lerp_(new, 1.0 - keep)

    def save(self, folder: Path) -> None:
        """The averaged model, its contract and its tokenizer."""
        self.average.save_pretrained(folder, described())
        build_tokenizer().save(str(folder / "tokenizer.json"))


def train(recipe: Recipe, demos_folder: Path, out: Path, start: Path | None, rank: int = 0) -> None:
    """Run the recipe; writes checkpoints and train.jsonl into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    demos = load(demos_folder)
    log.info("%d episodes, %d frames, %d labels", len(demos.episodes), len(demos.pixels), len(demos.label))
    trainer = Trainer(recipe, demos, rank)
    if start is not None:
        trainer.model.load_state_dict(FilmPolicy.from_pretrained(start).state_dict())
        trainer.average.load_state_dict(trainer.model.state_dict())
    began, sums = time.monotonic(), dict[str, float]()
    with (out / ("train.jsonl" if rank == 0 else f"train-{rank}.jsonl")).open("w", encoding="utf-8") as journal:
        head = {
            "recipe": vars(recipe),
            "start": start.name if start else "",
            "episodes": len(demos.episodes),
            "frames": len(demos.pixels),
            "labels": len(demos.label),
        }
        journal.write(json.dumps(head) + "\n")
        for index in range(recipe.steps):
            for name, value in trainer.step(index).items():
                sums[name] = sums.get(name, 0.0) + value / 100
            if (index + 1) % 100 == 0:
                row = {
                    "steps": index + 1,
                    "seconds": round(time.monotonic() - began),
                    **{k: round(v, 5) for k, v in sums.items()},
                }
                journal.write(json.dumps(row) + "\n")
                journal.flush()
                log.info("%s", row)
                sums = {}
            if rank == 0 and ((index + 1) % 250 == 0 or index + 1 == recipe.steps):
                trainer.save(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demos", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from")
    parser.add_argument("--final-share", type=float, default=0.02, help="share of the learning rate left at the end")
    parser.add_argument(
        "--rank", type=int, default=0, help="number of this process, where --world start the same command"
    )
    parser.add_argument("--world", type=int, default=1, help="processes that share the work, one thread each")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    if arguments.world > 1:
        distributed.init_process_group("gloo", "tcp://127.0.0.1:29517", rank=arguments.rank, world_size=arguments.world)
    recipe = Recipe(
        seed=arguments.seed,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        final_share=arguments.final_share,
        world=arguments.world,
    )
    train(recipe, arguments.demos, arguments.out, arguments.start, arguments.rank)


if __name__ == "__main__":
    main()
