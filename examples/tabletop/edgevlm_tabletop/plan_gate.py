"""Is what the policy says it will do what the expert would do? Steps and waypoints against the expert, on unseen seeds.

    python -m edgevlm_tabletop.plan_gate BUNDLE [--episodes 150] [--seed N] [--json F]

The policy drives; at each of its decisions the clean expert is rolled out from the same state, and the plan is compared
with where the expert's hand goes and the step it is in. The hold-position baseline says "I stay where I am".
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.load import load_policy
from edgevlm.manifest.contract import ActionChunk, Observation, Stamped
from edgevlm.options import RuntimeOptions
from edgevlm.sim.episode import Driver, run_episode
from edgevlm.sim.evaluation import EvaluationPlan
from edgevlm.tasks import Session
from edgevlm_tabletop.commands import GATE_SEEDS
from edgevlm_tabletop.demos import WAYPOINT_STEPS
from edgevlm_tabletop.sim import TabletopSimulator, clean_rollout

STEP_ACCURACY, WAYPOINT_P90_M = 0.90, 0.02


class Judged:
    """A session whose every plan is compared with the expert's for `command`."""

    def __init__(self, session: Session, simulator: TabletopSimulator) -> None:
        self._session, self._simulator = session, simulator
        self.command = ""
        self.hits: list[bool] = []
        self.errors_m: list[float] = []
        self.held_m: list[float] = []

    @property
    def encodes(self) -> int:
        """As the session's."""
        return self._session.encodes

    @property
    def sampled_frames(self) -> int:
        """As the session's."""
        return self._session.sampled_frames

    def act(self, observation: Observation) -> ActionChunk:
        """As the session's."""
        chunk = self._session.act(observation)
        assert chunk.plan is not None and observation.state is not None
        _, hands, step = clean_rollout(self._simulator, self.command, WAYPOINT_STEPS[-1])
        points = hands[[after - 1 for after in WAYPOINT_STEPS]]  # (P, 3)
        self.hits.append(chunk.plan.step == step)
        self.errors_m.extend(np.linalg.norm(chunk.plan.waypoints - points, axis=1).tolist())
        self.held_m.extend(np.linalg.norm(observation.state.value[:3] - points, axis=1).tolist())
        return chunk

    def push(self, camera: str, frame: Stamped[NDArray[np.uint8]]) -> None:
        """As the session's."""
        self._session.push(camera, frame)

    def reset(self) -> None:
        """As the session's."""
        self._session.reset()


def measure(bundle: Path, plan: EvaluationPlan) -> dict[str, Any]:
    """Step accuracy, waypoint error and the hold-position baseline in metres, over all decisions."""
    simulator = TabletopSimulator()
    try:
        with load_policy(bundle, RuntimeOptions(intra_threads=1)) as policy:
            judged = Judged(policy.session(), simulator)
            for spec in plan.deal(simulator.commands):
                judged.command = spec.command
                run_episode(Driver(policy.contract, judged), simulator, spec)
            sha256 = policy.bundle.sha256
    finally:
        simulator.close()
    accuracy, p90 = float(np.mean(judged.hits)), float(np.percentile(judged.errors_m, 90))
    return {
        "episodes": plan.episodes,
        "seed": plan.seed,
        "decisions": len(judged.hits),
        "step_accuracy": accuracy,
        "waypoint_error_m": {"p50": float(np.median(judged.errors_m)), "p90": p90},
        "hold_position_error_m": {
            "p50": float(np.median(judged.held_m)),
            "p90": float(np.percentile(judged.held_m, 90)),
        },
        "met": accuracy >= STEP_ACCURACY and p90 <= WAYPOINT_P90_M,
        "bundle_sha256": sha256,
    }


def main() -> None:
    """Command line; prints the figures, exits with 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--episodes", type=int, default=150)
    parser.add_argument("--seed", type=int, default=GATE_SEEDS.start + 200_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = measure(arguments.bundle, EvaluationPlan(episodes=arguments.episodes, seed=arguments.seed))
    text = json.dumps(figures, indent=1)
    sys.stdout.write(text + "\n")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n")
    sys.exit(0 if figures["met"] else 1)


if __name__ == "__main__":
    main()
