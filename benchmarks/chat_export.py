"""Export of a 256 M-parameter chat with random weights: seconds and memory, against 3 minutes and 8 GB.

    python benchmarks/chat_export.py [--keep FOLDER]

The checkpoint has the shape of SmolVLM-256M: a vision transformer of 12 layers at 512 pixels, a Llama of 30 layers,
49,280 words. It is made in a process of its own, so that only the export is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S, LIMIT_GB = 180.0, 8.0
ROOT = Path(__file__).parents[1]
MAKE = "import sys; from pathlib import Path; from support import chats; chats.large(Path(sys.argv[1]))"


def measure(folder: Path) -> dict[str, float]:
    """Make the checkpoint in `folder`, export it, and say what that took."""
    checkpoint = folder / "checkpoint"
    environment = {"PYTHONPATH": str(ROOT / "tests")}
    subprocess.run([sys.executable, "-c", MAKE, str(checkpoint)], check=True, env=_with(environment))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    command = [sys.executable, "-m", "edgevlm.cli", "export", str(checkpoint), "-o", str(folder / "bundle")]
    subprocess.run([*command, "--context", "2048"], check=True)
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = after.ru_maxrss / 1e6  # of the larger of the two children
    took = {"seconds": round(seconds, 1), "cpu_seconds": round(worked, 1), "peak_gb": round(peak, 2)}
    return {**took, "limit_s": LIMIT_S, "limit_gb": LIMIT_GB}


def _with(more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **more}


def main() -> None:
    """Print the figures as JSON; exit 1 where a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="a folder for checkpoint and bundle; else they are deleted")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(chosen.keep or Path(temporary))
    print(json.dumps(figures, indent=1))
    sys.exit(figures["seconds"] > LIMIT_S or figures["peak_gb"] > LIMIT_GB)


if __name__ == "__main__":
    main()
