"""The gate over ROS 2: does an episode come out the same through DDS, the policy node and the command gate?

    python -m edgevlm_tabletop.ros.gate --fp32 BUNDLE --int8 BUNDLE [--episodes 300] [--real-time 60] [--json F]

Lock-step episodes with separate processes must equal those of one process exactly: success, steps, and a hash of every
action and of the final physical state. Then episodes in real time, beside a run in one process with the latency that
was measured. Ends with 1 when anything differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from edgevlm.errors import EdgevlmError
from edgevlm.load import load_policy
from edgevlm.options import RuntimeOptions
from edgevlm.profiler import machine
from edgevlm.sim.episode import EpisodeResult
from edgevlm.sim.evaluation import EvaluationPlan, Watch, evaluate
from edgevlm_tabletop.commands import GATE_SEEDS
from edgevlm_tabletop.ros.demo import LEAST_SUCCESS, Setup, drive, figures, own_domain
from edgevlm_tabletop.ros.episodes import CONFIG
from edgevlm_tabletop.ros.journal import WitnessedSimulator

OPTIONS = RuntimeOptions(intra_threads=1)  # as the policy node's in both configurations
COMPARED = ("seed", "command", "success", "steps", "sha256")


def in_process(bundle: Path, plan: EvaluationPlan) -> list[dict[str, Any]]:
    """The plan's episodes in this process, each with what is compared."""
    outcomes: list[dict[str, Any]] = []
    simulator = WitnessedSimulator()

    def note(result: EpisodeResult) -> None:
        outcomes.append(
            {
                "seed": result.seed,
                "command": result.command,
                "success": result.success,
                "steps": result.steps,
                "sha256": simulator.digest(),
            }
        )

    try:
        with load_policy(bundle, OPTIONS) as policy:
            evaluate(policy, simulator, plan, Watch(progress=note))
    finally:
        simulator.close()
    return outcomes


def differences(here: list[dict[str, Any]], there: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The episodes that did not come out the same."""
    return [
        {"in_process": one, "over_ros": {key: other[key] for key in COMPARED}}
        for one, other in zip(here, there, strict=True)
        if any(one[key] != other[key] for key in COMPARED)
    ]


def lock_step(setup: Setup, plan: EvaluationPlan, console: Console) -> dict[str, Any]:
    """Both runs of a plan, and what differs."""
    started = time.perf_counter()
    here = in_process(setup.bundle, plan)
    between = time.perf_counter()
    there = figures(*drive(setup, plan, console))
    ended = time.perf_counter()
    return {
        "episodes": plan.episodes,
        "success_rate": there["success_rate"],
        "different": differences(here, there["outcomes"]),
        "in_process_s": between - started,
        "over_ros_s": ended - between,
    }


def real_time(setup: Setup, plan: EvaluationPlan, console: Console) -> dict[str, Any]:
    """The plan in real time over ROS, and in this process with the latency that was measured there."""
    there = figures(*drive(setup, plan, console))
    latency_s = there["latency_ms"]["p50"] / 1e3
    here = in_process(setup.bundle, plan.model_copy(update={"latency_s": latency_s}))
    return {
        "over_ros": {key: value for key, value in there.items() if key != "machine"},
        "in_process": {
            "latency_ms": latency_s * 1e3,
            "success_rate": sum(outcome["success"] for outcome in here) / len(here),
        },
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fp32", type=Path)
    parser.add_argument("--int8", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--real-time", type=int, default=60, help="episodes in real time; 0: none")
    parser.add_argument("--seed", type=int, default=GATE_SEEDS.start)
    parser.add_argument("--logs", type=Path, default=Path("build/ros-gate"), help="a log for each process")
    parser.add_argument("--json", type=Path, default=Path("build/ros-gate.json"))
    arguments = parser.parse_args()
    console = Console(highlight=False)
    bundles = {"fp32": arguments.fp32, "int8": arguments.int8}
    result: dict[str, Any] = {"seed": arguments.seed, "machine": machine(), "lock_step": {}}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    try:
        domain = own_domain()
        plan = EvaluationPlan(episodes=arguments.episodes, seed=arguments.seed)
        for name, bundle in bundles.items():
            if bundle:
                setup = Setup(bundle, CONFIG / "lock_step.yaml", arguments.logs / name, domain)
                result["lock_step"][name] = lock_step(setup, plan, console)
        if arguments.real_time:
            plan = EvaluationPlan(episodes=arguments.real_time, seed=arguments.seed)
            setup = Setup(arguments.int8, CONFIG / "real_time.yaml", arguments.logs / "real-time", domain)
            result["real_time"] = real_time(setup, plan, console)
    except (EdgevlmError, RuntimeError) as error:
        Console(stderr=True, highlight=False).print(f"ros-gate: {error}\nlogs: {arguments.logs}", markup=False)
        return 1
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return verdict(result, console)


def verdict(result: dict[str, Any], console: Console) -> int:
    """Say how it went; 0 when all is equal, and real time is as good as it must be."""
    code = 0
    for name, run in result["lock_step"].items():
        console.print(f"lock-step, {name}: {run['episodes'] - len(run['different'])} of {run['episodes']} the same")
        for pair in run["different"]:
            console.print(f"  {pair}", markup=False)
            code = 1
    if "real_time" in result:
        over, here = result["real_time"]["over_ros"], result["real_time"]["in_process"]
        console.print(
            f"real time: {over['success_rate']:.1%} over ROS, {here['success_rate']:.1%} in one process with "
            f"{here['latency_ms']:.0f} ms of latency"
        )
        code = code or int(over["success_rate"] < LEAST_SUCCESS)
    return code


if __name__ == "__main__":
    sys.exit(main())
