"""The whole chaos suite: all rows with the gate, then the same without its limits.

    PYTHONPATH=tests python -m ros.chaos --bundle DIR [--rows NAME ...] [--only on|off] [--json F]

Exits 1 when a command with the gate broke a rule, or a row without it broke none.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from ros.chaos.play import markdown, run_patiently
from ros.chaos.rows import BY_NAME

from edgevlm.profiler import machine
from edgevlm_ros.processes import free_domain


def main() -> None:
    """Run, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rows", nargs="*", choices=list(BY_NAME), default=list(BY_NAME))
    parser.add_argument("--only", choices=("on", "off"))
    parser.add_argument("--domain", type=int, default=None, help="ROS_DOMAIN_ID; by default a free one")
    parser.add_argument("--work", type=Path, help="where logs and records are kept")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="chaos-"))
    domain = free_domain() if args.domain is None else args.domain
    rows = [BY_NAME[name] for name in args.rows]
    report: dict[str, Any] = {}
    for mode in ("on", "off"):
        if args.only in (None, mode):
            report[mode] = run_patiently(rows, args.bundle.resolve(), domain, work, enabled=mode == "on")
    tables = {mode: rows_["rows"] for mode, rows_ in report.items()}
    sys.stdout.write(markdown(tables) + "\n\n")
    failed = [f"gate {mode}: {row['row']}" for mode, rows_ in tables.items() for row in rows_ if not row["passed"]]
    failed += [f"gate on, between rows: {stray}" for stray in report.get("on", {}).get("strays", ())]
    sys.stdout.write("\n".join(["not as it must be:", *failed] if failed else ["every row is as it must be"]) + "\n")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**report, "machine": machine(), "failed": failed}, indent=2) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
