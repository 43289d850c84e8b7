"""Closed-loop selection of checkpoints in plain torch, on selection seeds. Published figures come from the runtime.

python -m edgevlm_tabletop.evaluate checkpoint --episodes 150 [--variant occluded] [--one-frame] [--control NAME]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from edgevlm_export.models.film_policy import FilmPolicy
from edgevlm_tabletop.commands import SELECTION_SEEDS
from edgevlm_tabletop.contract import CHUNK_SCALE, normalise_state, preprocessor
from edgevlm_tabletop.data import WINDOW_LAGS
from edgevlm_tabletop.demos import WAYPOINT_STEPS
from edgevlm_tabletop.experts import STEPS
from edgevlm_tabletop.scene import CAMERA
from edgevlm_tabletop.sim import STEPS_PER_FRAME, VARIANTS, TabletopSimulator, clean_rollout
from edgevlm_tabletop.words import encode

CONTROLS = ("none", "wrong-command", "blank-image")
_WAYPOINT_SCALE_M = 0.1


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is tried: the scene's variant, a control, and whether the window holds only the newest frame."""

    variant: str
    control: str
    one_frame: bool
    plan: bool


class TorchPolicy:
    """The checkpoint with its window, for one simulator at a time."""

    def __init__(self, folder: Path, *, one_frame: bool) -> None:
        self._model = FilmPolicy.from_pretrained(folder)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._prepare = preprocessor()
        self._one_frame = one_frame
        self._maps: list[Tensor] = []
        self._text = torch.zeros(0)

    @torch.inference_mode()
    def start(self, sentence: str) -> None:
        """Forget the past and take an instruction."""
        ids, mask = encode(self._tokenizer, sentence)
        self._maps, self._text = [], self._model.text(torch.from_numpy(ids)[None], torch.from_numpy(mask)[None])

    @torch.inference_mode()
    def act(
        self, image: NDArray[np.uint8], state: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
        """Chunk (K, 4) in metres and gripper units, waypoints (P, 3) in metres, the step being done."""
        self._maps.append(self._model.vision(CAMERA)(torch.from_numpy(self._prepare(image))))
        newest = len(self._maps) - 1
        slots = [newest if self._one_frame else max(newest - lag, 0) for lag in WINDOW_LAGS]
        pooled = self._model.pool(*(self._maps[slot] for slot in slots))
        scaled = torch.from_numpy(normalise_state(state))[None]
        chunk, path, logits = self._model.head(self._text, scaled, *pooled)
        values = chunk[0].numpy() * CHUNK_SCALE
        return values, path[0].numpy() * np.float32(_WAYPOINT_SCALE_M) + state[:3], STEPS[int(logits.argmax())]


@dataclass
class Outcome:
    """One episode: success of the command asked for and of the one given, and the plan against the expert's."""

    asked: str
    success: bool
    success_spoken: bool
    step_hits: list[bool]
    waypoint_errors_m: list[float]
    hold_errors_m: list[float]


def run_episode(sim: TabletopSimulator, policy: TorchPolicy, seed: int, trial: Trial) -> Outcome:
    """Episode `seed`; the command goes round with the seed."""
    asked = sim.commands[seed % len(sim.commands)]
    spoken = asked
    if trial.control == "wrong-command":
        others = [name for name in sim.commands if name != asked]
        spoken = others[int(np.random.default_rng([seed, 5]).integers(len(others)))]
    sim.reset(seed=seed, command=asked, variant=trial.variant)
    policy.start(sim.phrase(spoken))
    outcome = Outcome(asked, False, False, [], [], [])
    while not sim.finished and not sim.succeeded(spoken):
        image, _ = sim.frame
        state = sim.state
        chunk, path, step = policy.act(np.zeros_like(image) if trial.control == "blank-image" else image, state)
        if trial.plan:
            _judge_plan(sim, spoken, (path, step, state), outcome)
        for values in chunk[:STEPS_PER_FRAME]:
            sim.apply(values)
    outcome.success, outcome.success_spoken = sim.succeeded(asked), sim.succeeded(spoken)
    return outcome


def _judge_plan(
    sim: TabletopSimulator, spoken: str, plan: tuple[NDArray[np.float32], str, NDArray[np.float32]], outcome: Outcome
) -> None:
    path, step, state = plan
    _, hands, truth = clean_rollout(sim, spoken, WAYPOINT_STEPS[-1])
    points = hands[[after - 1 for after in WAYPOINT_STEPS]]
    outcome.step_hits.append(step == truth)
    outcome.waypoint_errors_m.extend(np.linalg.norm(path - points, axis=1).tolist())
    outcome.hold_errors_m.extend(np.linalg.norm(state[:3] - points, axis=1).tolist())


def summarise(outcomes: list[Outcome]) -> dict[str, object]:
    """Rates and percentiles over all episodes."""
    lost = Counter(outcome.asked for outcome in outcomes if not outcome.success)
    summary: dict[str, object] = {
        "episodes": len(outcomes),
        "success_rate": round(float(np.mean([o.success for o in outcomes])), 4),
        "success_given": round(float(np.mean([o.success_spoken for o in outcomes])), 4),
        "lost": dict(lost),
    }
    if errors := [e for o in outcomes for e in o.waypoint_errors_m]:
        held = [e for o in outcomes for e in o.hold_errors_m]
        summary["step_accuracy"] = round(float(np.mean([hit for o in outcomes for hit in o.step_hits])), 4)
        summary["waypoint_p90_m"] = round(float(np.percentile(errors, 90)), 4)
        summary["hold_position_p90_m"] = round(float(np.percentile(held, 90)), 4)
    return summary


def main() -> None:
    """Command line; prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--episodes", type=int, default=150)
    parser.add_argument("--seed", type=int, default=SELECTION_SEEDS.start)
    parser.add_argument("--variant", choices=VARIANTS, default="plain")
    parser.add_argument("--control", choices=CONTROLS, default="none")
    parser.add_argument("--one-frame", action="store_true")
    parser.add_argument("--plan", action="store_true", help="compare waypoints and steps with the expert's")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trial = Trial(
        variant=arguments.variant, control=arguments.control, one_frame=arguments.one_frame, plan=arguments.plan
    )
    sim, policy = TabletopSimulator(), TorchPolicy(arguments.checkpoint, one_frame=trial.one_frame)
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    summary = summarise([run_episode(sim, policy, seed, trial) for seed in seeds])
    sys.stdout.write(json.dumps({**vars(trial), **summary}) + "\n")


if __name__ == "__main__":
    main()
