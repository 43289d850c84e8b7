"""Seeded attacks on everything that takes input from outside: how many cases ran, and what came of them.

    PYTHONPATH=tests python benchmarks/attacks.py [--seconds 30] [--seed N] [--only NAME,..] [--json F] [--write PAGE]

Each attack runs in a process of its own for its share of the time, two at once. A case that raises anything but what it
may, breaks a promise, takes too much memory or does not end is a finding: it is printed with its seed, and the exit
code is 1. `--write` puts the counts between the two marks of a page.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import resource
import sys
import tempfile
import textwrap
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from attack.base import Attack
from rich.console import Console
from rich.table import Table

from edgevlm.profiler import machine

ATTACKS: Mapping[str, str] = {  # name -> module:class, in the order of the table
    "bundles": "attack.bundles:Bundles",
    "recordings": "attack.recordings:Recordings",
    "pictures": "attack.pictures:Pictures",
    "mcap": "attack.mcap:Containers",
    "gate": "attack.gate:GateSequences",
    "estop": "attack.estop:EmergencyStops",
    "units": "attack.units:Units",
    "nonfinite": "attack.nonfinite:NonFinite",
    "templates": "attack.templates:Templates",
    "parameters": "attack.parameters:ParametersAttack",
    "checkpoints": "attack.checkpoints:Checkpoints",
}
_MAX_FINDINGS = 5
_JOBS = 2
BEGIN, END = "<!-- made by benchmarks/attacks.py -->", "<!-- end -->"


@dataclass
class Outcome:
    """What came of one attack."""

    unit: str
    cases: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def load_attack(name: str) -> Attack:
    """The attack of a row of ATTACKS."""
    module, _, attribute = ATTACKS[name].partition(":")
    attack: Attack = getattr(importlib.import_module(module), attribute)()
    return attack


def run_attack(name: str, first_seed: int, seconds: float) -> Outcome:
    """Cases of seeds from `first_seed` on, for about `seconds`."""
    attack, begin = load_attack(name), time.monotonic()
    outcome, seed = Outcome(attack.unit), first_seed
    while (left_s := seconds - (time.monotonic() - begin)) > 0 and len(outcome.findings) < _MAX_FINDINGS:
        seed = _batch(name, seed, left_s, attack.limit_s, outcome)
    outcome.cases, outcome.seconds = seed - first_seed, round(time.monotonic() - begin, 1)
    return outcome


def _batch(name: str, seed: int, left_s: float, limit_s: float, outcome: Outcome) -> int:
    """Run cases in one child until the time is over or a case ends the child; the next seed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_serve, args=(name, seed, left_s, theirs), daemon=True)
    child.start()
    theirs.close()
    started = False
    try:
        while ours.poll(limit_s if started else limit_s + 60):  # the child imports first
            kind, text = ours.recv()
            started = True
            if kind == "end":
                return seed
            if kind == "begin":
                continue
            seed += 1
            if kind == "finding":
                outcome.findings.append(f"seed {seed - 1}: {text}")
            else:
                outcome.outcomes[text] += 1
        outcome.findings.append(f"seed {seed}: did not end within {limit_s} s")
    except EOFError:
        child.join(10)
        outcome.findings.append(f"seed {seed}: the process died (exit code {child.exitcode})")
    finally:
        child.kill()
        child.join()
    return seed + 1


def _serve(name: str, seed: int, seconds: float, pipe: Connection) -> None:
    attack, begin = load_attack(name), time.monotonic()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + (attack.memory_mb << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe.send(("begin", ""))
    while time.monotonic() - begin < seconds:
        with tempfile.TemporaryDirectory(prefix="edgevlm-attack-") as directory:
            try:
                pipe.send(("came", attack.one(seed, Path(directory))))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
                where = traceback.extract_tb(error.__traceback__)[-1]
                pipe.send(("finding", f"{type(error).__name__}: {error!s:.400} (at {where.filename}:{where.lineno})"))
        seed += 1
    pipe.send(("end", ""))


def _show(outcomes: Mapping[str, Outcome]) -> None:
    table = Table("attack", "cases", "what came of them", "findings")
    for name, outcome in outcomes.items():
        came = ", ".join(f"{label} {count}" for label, count in outcome.outcomes.most_common())
        table.add_row(name, f"{outcome.cases:,} {outcome.unit}", came, str(len(outcome.findings)))
    console = Console()
    console.print(table)
    for name, outcome in outcomes.items():
        for finding in outcome.findings:
            console.print(f"{name}: {finding}", style="red", markup=False, soft_wrap=True)


def _write(page: Path, seed: int, outcomes: Mapping[str, Outcome]) -> None:
    before, mark, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise SystemExit(f"{page}: expected the marks {BEGIN} and {END}")
    rows = [f"Seeds from {seed}.", ""]
    for name, outcome in outcomes.items():
        came = ", ".join(f"{label} {count:,}" for label, count in outcome.outcomes.most_common())
        line = f"* `{name}`: {outcome.cases:,} {outcome.unit}, {len(outcome.findings)} findings: {came}"
        rows += textwrap.wrap(line, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    page.write_text("\n".join([f"{before}{BEGIN}", *rows, "", f"{END}{after}"]), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each attack")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--only", default=",".join(ATTACKS), help="names, with commas")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path, help="a page with the two marks")
    args = parser.parse_args()
    names = args.only.split(",")
    with ThreadPoolExecutor(_JOBS) as pool:
        ran = pool.map(lambda name: run_attack(name, args.seed, args.seconds), names)
        outcomes = {}
        for name, outcome in zip(names, ran, strict=True):
            print(f"{name}: {outcome.cases:,} {outcome.unit}", file=sys.stderr, flush=True)
            outcomes[name] = outcome
    _show(outcomes)
    if args.write:
        _write(args.write, args.seed, outcomes)
    if args.json:
        record = {name: {**vars(outcome), "outcomes": dict(outcome.outcomes)} for name, outcome in outcomes.items()}
        args.json.write_text(json.dumps({"machine": machine(), "seed": args.seed, "attacks": record}, indent=2) + "\n")
    return int(any(outcome.findings for outcome in outcomes.values()))


if __name__ == "__main__":
    raise SystemExit(main())
