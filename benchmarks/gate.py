"""The long gate: does int8 still do what it is told, and does every part of the model matter?

    python benchmarks/gate.py --fp32 BUNDLE --int8 BUNDLE [--episodes 915] [--processes 2] [--json F]

fp32 and int8 meet the same episodes (same seeds, commands in turn); the difference is a paired one with its 95 %
interval. Then the controls on the int8 bundle. The seeds here are used for nothing else: training, selection and tuning
have their own.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgevlm.errors import SimulatorError
from edgevlm.load import load_policy
from edgevlm.options import RuntimeOptions
from edgevlm.profiler import machine
from edgevlm.sim.evaluation import EvaluationPlan, evaluate
from edgevlm.sim.simulator import open_simulator

GATE_SEED = 10_000_000
Z95 = 1.959964
OPTIONS = RuntimeOptions(intra_threads=1)


def work(job: tuple[Path, EvaluationPlan]) -> dict[str, Any]:
    """Run a plan in this process: the figures of `edgevlm run --sim --json`."""
    bundle, plan = job
    with load_policy(bundle, OPTIONS) as policy:
        name = policy.bundle.manifest.extensions.get("simulator")
        if not isinstance(name, str):
            raise SimulatorError(f"{bundle}: the bundle names no simulator")
        simulator = open_simulator(name)
        try:
            return evaluate(policy, simulator, plan).to_json()
        finally:
            simulator.close()


def paired(first: Sequence[bool], second: Sequence[bool]) -> dict[str, float]:
    """second - first in points, with a 95 % interval for matched pairs (Agresti and Min 2005: +0.5 to each cell)."""
    gained = sum(not a and b for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    count = len(first)
    up, down, total = gained + 0.5, lost + 0.5, count + 2.0
    middle = (up - down) / total
    half = Z95 * math.sqrt((up + down) / total - middle**2) / math.sqrt(total)
    return {
        "pairs": count,
        "lost": lost,
        "gained": gained,
        "difference_points": 100.0 * (gained - lost) / count,
        "low_points": 100.0 * (middle - half),
        "high_points": 100.0 * (middle + half),
    }


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927)."""
    rate, square = successes / episodes, Z95**2
    centre = (rate + square / (2 * episodes)) / (1 + square / episodes)
    half = Z95 / (1 + square / episodes) * math.sqrt(rate * (1 - rate) / episodes + square / (4 * episodes**2))
    return centre - half, centre + half


def split(plan: EvaluationPlan, commands: int, parts: int) -> list[EvaluationPlan]:
    """Pieces of a plan whose episodes, put together, are the plan's: each begins where the commands begin anew."""
    rounds = plan.episodes // commands
    sizes = [rounds // parts + (part < rounds % parts) for part in range(parts)]
    plans, seed = [], plan.seed
    for size in sizes:
        if size:
            plans.append(plan.model_copy(update={"seed": seed, "episodes": size * commands}))
            seed += size * commands
    return plans


class Gate:
    """Runs plans over processes and prints as it goes."""

    def __init__(self, pool: Any, processes: int, commands: int) -> None:
        self._pool, self._processes, self._commands = pool, processes, commands

    def run(self, name: str, bundle: Path, plan: EvaluationPlan) -> dict[str, Any]:
        """The plan's outcomes put together, with a 95 % interval of the success rate."""
        began = time.monotonic()
        jobs = [(bundle, piece) for piece in split(plan, self._commands, self._processes)]
        parts = self._pool.map(work, jobs, chunksize=1)
        outcomes = [outcome for part in parts for outcome in part["outcomes"]]
        successes = sum(outcome["success"] for outcome in outcomes)
        low, high = wilson(successes, len(outcomes))
        row: dict[str, Any] = {
            "episodes": len(outcomes),
            "successes": successes,
            "success_rate": successes / len(outcomes),
            "interval_95": [low, high],
            "given_rate": sum(outcome["given_success"] for outcome in outcomes) / len(outcomes),
            "encodes_per_frame": max(part["encodes_per_frame"] for part in parts),
            "bundle_sha256": parts[0]["bundle_sha256"],
            "plan": plan.model_dump(mode="json"),
            "failed": [outcome for outcome in outcomes if not outcome["success"]] if plan.control == "none" else [],
            "outcomes": [outcome["success"] for outcome in outcomes],
        }
        if changes := [part["action_change"] for part in parts if part.get("action_change")]:
            row["action_change"] = changes[0]
        seconds = time.monotonic() - began
        rate = f"{successes:4d} of {len(outcomes):4d} = {row['success_rate']:6.1%}  [{low:.1%}, {high:.1%}]"
        print(f"{name:34s} {rate}  {seconds:.0f} s", flush=True)
        return row


def measure(gate: Gate, args: argparse.Namespace) -> dict[str, Any]:
    """All rows of the gate."""
    plain = EvaluationPlan(episodes=args.episodes, seed=GATE_SEED)
    small = EvaluationPlan(episodes=args.control_episodes, seed=GATE_SEED + 100_000)
    hidden = small.model_copy(update={"variant": "occluded"})
    rows = {
        "fp32": gate.run("fp32", args.fp32, plain),
        "int8": gate.run("int8", args.int8, plain),
    }
    for control in ("wrong-command", "blank-image", "frozen-window", "shuffled-window"):
        plan = small.model_copy(update={"control": control})
        rows[control] = gate.run(f"int8, {control}", args.int8, plan)
    rows["hidden objects"] = gate.run("int8, hidden objects", args.int8, hidden)
    one_frame = hidden.model_copy(update={"control": "frozen-window"})
    rows["hidden objects, 1-frame window"] = gate.run("int8, hidden objects, 1-frame window", args.int8, one_frame)
    return rows


def limits(rows: dict[str, Any], pairs: dict[str, float]) -> dict[str, dict[str, Any]]:
    """What the gate asks for, what was measured, and whether it was met."""
    memory = 100 * (rows["hidden objects"]["success_rate"] - rows["hidden objects, 1-frame window"]["success_rate"])
    asked = (
        ("fp32 success, at least", rows["fp32"]["success_rate"], 0.97, 1),
        ("int8 - fp32, low end of 95 %, above points", pairs["low_points"], -1.5, 1),
        ("wrong command, the original, at most", rows["wrong-command"]["success_rate"], 0.25, -1),
        ("wrong command, the one given, at least", rows["wrong-command"]["given_rate"], 0.90, 1),
        ("blank image, at most", rows["blank-image"]["success_rate"], 0.10, -1),
        ("hidden objects: full window - 1 frame, at least points", memory, 15.0, 1),
        ("image encodes a sampled frame, at most", rows["int8"]["encodes_per_frame"], 1.0, -1),
    )
    return {
        name: {"measured": measured, "limit": limit, "met": sign * (measured - limit) >= 0}
        for name, measured, limit, sign in asked
    }


def main() -> None:
    """Run the gate, print it, write it; exit 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fp32", type=Path, required=True)
    parser.add_argument("--int8", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=915)
    parser.add_argument("--control-episodes", type=int, default=300)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with load_policy(args.int8, OPTIONS) as policy:
        name = str(policy.bundle.manifest.extensions.get("simulator"))
    simulator = open_simulator(name)
    commands = len(simulator.commands)
    simulator.close()
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        rows = measure(Gate(pool, args.processes, commands), args)
    pairs = paired(rows["fp32"].pop("outcomes"), rows["int8"].pop("outcomes"))
    met = limits(rows, pairs)
    print(
        f"int8 - fp32: {pairs['difference_points']:+.2f} points, "
        f"95 % [{pairs['low_points']:+.2f}, {pairs['high_points']:+.2f}], "
        f"discordant pairs: {pairs['lost']} lost, {pairs['gained']} gained of {pairs['pairs']}"
    )
    for name, row in met.items():
        print(f"  {'met   ' if row['met'] else 'MISSED'} {name}: {row['measured']:.4g} (limit {row['limit']:g})")
    for row in rows.values():
        row.pop("outcomes", None)
    if args.json:
        figures = {"rows": rows, "paired": pairs, "limits": met, "machine": machine()}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(0 if all(row["met"] for row in met.values()) else 1)


if __name__ == "__main__":
    main()
