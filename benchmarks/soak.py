"""What only shows after a while: a million random chunks through the gate, and real nodes at 30 Hz for many minutes.

    PYTHONPATH=tests python benchmarks/soak.py --bundle DIR [--minutes 20] [--chunks 1000000] [--json F]

The nodes run as in ros_latency. Their memory may not grow by 1 % after a warm-up, and no heartbeat may be missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ros.chaos.rig import GATE, read_record
from ros_latency import RATE_HZ, Graph, S, with_camera

from edgevlm.profiler import machine
from edgevlm_ros.processes import free_domain

ROOT = Path(__file__).parents[1]
WARM_UP_S = 120.0
EVERY_S = 5.0
GROWTH, TENTHS = 0.01, 10
NODES = ("policy", "gate")


def random_chunks(chunks: int) -> dict[str, Any]:
    """The property test of the gate with that many chunks."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "tests/edgevlm/gate/test_gate_random.py"]
    ran = subprocess.run(command, cwd=ROOT, env={**os.environ, "EDGEVLM_GATE_CHUNKS": str(chunks)}, check=False)
    return {"chunks": chunks, "passed": ran.returncode == 0, "seconds": round(time.monotonic() - begin, 1)}


def resident_kb(pid: int) -> int:
    """Memory that a process holds now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise SystemExit(f"process {pid} has ended")


def growth(samples_kb: Sequence[int]) -> dict[str, Any]:
    """Medians in MB of each tenth of the samples, and by what share the last is over the first."""
    cuts = [round(i * len(samples_kb) / TENTHS) for i in range(TENTHS + 1)]
    tenths = [statistics.median(samples_kb[a:b] or samples_kb[-1:]) for a, b in pairwise(cuts)]
    share = round(tenths[-1] / tenths[0] - 1, 5)
    return {"tenths_mb": [round(kb / 1024, 3) for kb in tenths], "growth": share}


def live(bundle: Path, work: Path, domain: int, minutes: float) -> dict[str, Any]:
    """Real nodes for that long after the warm-up."""
    samples: dict[str, list[int]] = {name: [] for name in NODES}
    with Graph(with_camera(bundle, work / "vga"), work, domain) as graph:
        graph.start()
        warm_up_s = min(WARM_UP_S, minutes * 60 / 4)
        time.sleep(warm_up_s)
        begin_ns, end = time.time_ns(), time.monotonic() + minutes * 60
        while time.monotonic() < end:
            for name in NODES:
                samples[name].append(resident_kb(graph.pid(name)))
            graph.processes.check()
            time.sleep(EVERY_S)
        end_ns = time.time_ns()
        sent = graph.end_camera()
    beats, stats, modes = _signs(graph.record, begin_ns, end_ns)
    gaps_ms = [(b - a) / 1e6 for a, b in pairwise(beats)]
    received = stats[-1]["frames_received"] - stats[0]["frames_received"]
    return {
        "minutes": minutes,
        "warm_up_s": warm_up_s,
        "memory": {name: growth(samples[name]) for name in NODES},
        "heartbeats": len(beats),
        "heartbeats_missed": sum(gap > GATE["deadline_ms"] for gap in gaps_ms),
        "heartbeat_gap_max_ms": round(max(gaps_ms), 1),
        "frames_received": received,
        "frames_sent": round((stats[-1]["stamp"] - stats[0]["stamp"]) / S * RATE_HZ),
        "modes": modes,
        "camera": sent,
    }


def _signs(record: Path, begin_ns: int, end_ns: int) -> tuple[list[int], list[Any], dict[str, int]]:
    """When heartbeats were sent, statistics of inferences, and how often the gate was in which mode."""
    mine = [line for line in read_record(record) if begin_ns <= line["r"] <= end_ns]
    modes: dict[str, int] = {}
    for line in mine:
        if line["k"] == "status":
            modes[line["mode"]] = modes.get(line["mode"], 0) + 1
    return [line["s"] for line in mine if line["k"] == "beat"], [ln for ln in mine if ln["k"] == "stats"], modes


def main() -> None:
    """Soak, print, write; exit 1 when something broke, leaked or fell silent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--domain", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    domain = free_domain() if args.domain is None else args.domain
    gate = random_chunks(args.chunks) if args.chunks else None
    with tempfile.TemporaryDirectory() as work:
        nodes = live(args.bundle.resolve(), Path(work), domain, args.minutes)
    met = {f"memory of {name} grows by less than 1 %": row["growth"] < GROWTH for name, row in nodes["memory"].items()}
    met["no heartbeat missed"] = nodes["heartbeats_missed"] == 0
    if gate:
        met[f"{args.chunks} random chunks break no limit"] = gate["passed"]
    for name, row in nodes["memory"].items():
        print(f"{name:8s} {' '.join(f'{mb:.1f}' for mb in row['tenths_mb'])} MB ({row['growth']:+.3%})")
    gap_ms = nodes["heartbeat_gap_max_ms"]
    print(f"{nodes['heartbeats']} heartbeats, the longest gap {gap_ms} ms; modes {nodes['modes']}")
    for name, well in met.items():
        print(f"  {'met   ' if well else 'MISSED'} {name}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"random_chunks": gate, "nodes": nodes, "met": met, "machine": machine()}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(0 if all(met.values()) else 1)


if __name__ == "__main__":
    main()
