"""The demo: the simulated robot, the policy and the command gate as processes, driven episode by episode over ROS 2.

    python -m edgevlm_tabletop.ros.demo BUNDLE [--episodes 15] [--seed N] [--json F]

Prints a table and writes the figures. Ends with 1 when a process dies or too few episodes succeed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgevlm.errors import EdgevlmError
from edgevlm.profiler import machine
from edgevlm.sim.evaluation import EvaluationPlan
from edgevlm_ros.processes import Processes, environment, free_domain
from edgevlm_tabletop.commands import COMMANDS, GATE_SEEDS
from edgevlm_tabletop.ros.episodes import CONFIG, GATE, POLICY, SIM, Director, Episode, start
from edgevlm_tabletop.sim import STEP_S, VARIANTS

LEAST_SUCCESS = 0.8
NAMES = tuple(command.name for command in COMMANDS)


@dataclass(frozen=True)
class Setup:
    """What is started.

    Attributes:
        config: parameters of all nodes; `changes`: more of them, by node, that win.
        logs: gets a log for each process.
        domain: ROS_DOMAIN_ID.
        ready_s: how long the nodes may take to become active.
    """

    bundle: Path
    config: Path
    logs: Path
    domain: int
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ready_s: float = 90.0


def drive(setup: Setup, plan: EvaluationPlan, console: Console) -> tuple[list[Episode], dict[str, Any]]:
    """The plan's episodes over ROS; outcomes and figures. The environment must be that of the domain already.

    Raises:
        EdgevlmError: an episode cannot be run.
        RuntimeError: a process died; the message has the end of its log.
    """
    journal = {"journal": str(setup.logs / "journal.jsonl")}
    changes = {**setup.changes, SIM: {**journal, **setup.changes.get(SIM, {})}}
    with Processes(setup.logs, environment(setup.domain)) as processes:
        start(processes, setup.bundle, setup.config, changes)
        with Director(processes.check, setup.domain) as director:
            director.wait_ready(setup.ready_s)
            episodes = director.run_all(plan.deal(NAMES), lambda episode: console.print(_line(episode)))
            return episodes, director.metrics.to_json()


def own_domain() -> int:
    """A domain that nobody uses, and this process set up for it."""
    domain = free_domain()
    os.environ.update(environment(domain))
    return domain


def faster(speed: float) -> dict[str, dict[str, Any]]:
    """Changes that make time pass at another speed."""
    if speed == 1.0:
        return {}
    simulated = {"use_sim_time": True}
    return {SIM: {"mode": "scaled", "speed": speed}, POLICY: simulated, GATE: simulated}


def _line(episode: Episode) -> str:
    record = episode.record
    verdict = "done" if record.success else f"not done ({episode.outcome}: {episode.reason})"
    return f"{record.seed}  {record.command:<26} {record.steps * STEP_S:5.2f} s  {verdict}"


def figures(episodes: Sequence[Episode], metrics: dict[str, Any]) -> dict[str, Any]:
    """What the JSON file says."""
    records = [episode.record for episode in episodes]
    return {
        "episodes": len(records),
        "success_rate": sum(record.success for record in records) / len(records),
        **metrics,
        "steps_rested": sum(record.rested for record in records),
        "commands_dropped": sum(sum(record.dropped.values()) for record in records),
        "outcomes": [
            {**record.model_dump(exclude={"frame_stamps_ns"}), "goal": episode.outcome}
            for episode, record in zip(episodes, records, strict=True)
        ],
        "machine": machine(),
    }


def table(result: dict[str, Any]) -> Table:
    """Success by command, and the figures."""
    rendered = Table(title=f"{result['success_rate']:.1%} of {result['episodes']} episodes over ROS 2")
    for column in ("command", "done", "of"):
        rendered.add_column(column, justify="left" if column == "command" else "right")
    for name in NAMES:
        tried = [outcome["success"] for outcome in result["outcomes"] if outcome["command"] == name]
        if tried:
            rendered.add_row(name, str(sum(tried)), str(len(tried)))
    rendered.add_section()
    for key in ("latency_ms", "command_age_ms", "overhead_ms"):
        rendered.add_row(f"{key} p50 / p99", f"{result[key]['p50']:.1f}", f"{result[key]['p99']:.1f}")
    rendered.add_row("frames received / sent", str(result["frames_received"]), str(result["frames_sent"]))
    return rendered


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--episodes", type=int, default=15)
    parser.add_argument("--seed", type=int, default=GATE_SEEDS.start)
    parser.add_argument("--variant", choices=VARIANTS, default=VARIANTS[0])
    parser.add_argument("--speed", type=float, default=1.0, help="simulated seconds per second; 1: real time")
    parser.add_argument("--ready", type=float, default=90.0, help="seconds that the nodes may take to start")
    parser.add_argument("--config", type=Path, default=CONFIG / "real_time.yaml", help="parameters of the nodes")
    parser.add_argument("--logs", type=Path, default=Path("build/ros-demo"), help="a log for each process")
    parser.add_argument("--json", type=Path, default=Path("build/ros-demo.json"))
    arguments = parser.parse_args()
    console = Console(highlight=False)
    plan = EvaluationPlan(episodes=arguments.episodes, seed=arguments.seed, variant=arguments.variant)
    try:
        changes = faster(arguments.speed)
        setup = Setup(arguments.bundle, arguments.config, arguments.logs, own_domain(), changes, arguments.ready)
        result = figures(*drive(setup, plan, console))
    except (EdgevlmError, RuntimeError) as error:
        Console(stderr=True, highlight=False).print(f"ros-demo: {error}\nlogs: {arguments.logs}", markup=False)
        return 1
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    console.print(table(result))
    console.print(f"figures: {arguments.json}")
    return 0 if result["success_rate"] >= LEAST_SUCCESS else 1


if __name__ == "__main__":
    sys.exit(main())
