"""Policies that LeRobot saves against the bundles that are exported from them: chunks in ONNX Runtime and controls.

    PYTHONPATH=tests python benchmarks/lerobot_parity.py [--json F]     (make lerobot)

LeRobot runs in .venv-lerobot and does everything up to the chunks; the export and ONNX Runtime run in this environment.
Exit 1 where a chunk is further off than the tolerance, or where a control moves it by less than 100 tolerances.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from support import lerobot_parity as parity
from support import lerobot_policies as policies
from support.lerobot_setups import SETUPS

from edgevlm.profiler import machine
from edgevlm_export.exporter import export


def row(policy: Path, work: Path) -> dict[str, Any]:
    """One policy: exported in fp32 and compared."""
    robot = policies.write_robot(work / f"{policy.name}.yaml", policies.robot_of(policy))
    export(policy, work / policy.name, robot=robot)
    measured = parity.measure(policy, work / policy.name)
    least = min(measured["controls"], key=measured["controls"].get)
    print(f"{policy.name}: error {measured['error']:.1e}, least control {measured['controls'][least]:.2g} ({least})")
    return {"error": measured["error"], "controls": measured["controls"]}


def holds(one: dict[str, Any]) -> bool:
    """Whether a row keeps to the limits."""
    near = one["error"] < parity.TOLERANCE
    return bool(near and min(one["controls"].values()) > parity.CONTROL * parity.TOLERANCE)


def commit() -> str:
    """Of this checkout; with a plus behind it where files of it were changed."""
    git = ["git", "-C", str(parity.ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False)
    if head.returncode != 0:
        return "unknown"
    return head.stdout.strip() + ("+" if changed.returncode else "")


def main() -> None:
    """Write, export, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not parity.installed():
        raise SystemExit("LeRobot: expected an environment of its own in .venv-lerobot, found none; run make lerobot")
    with tempfile.TemporaryDirectory() as temporary:
        work, saved = Path(temporary), Path(temporary) / "lerobot"
        parity.write(saved)
        rows = {name: row(saved / name, work) for name in SETUPS}
        versions = json.loads((saved / "versions.json").read_text())
    results = {
        "commit": commit(),
        "lerobot": versions,
        "tolerance": parity.TOLERANCE,
        "policies": rows,
        "machine": machine(),
    }
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    sys.exit(0 if all(map(holds, rows.values())) else 1)


if __name__ == "__main__":
    main()
