"""Export of large chats with random weights: seconds and memory, then the time to the first word.

    python benchmarks/chat_export.py [--shape smolvlm-256m | over-2gb] [--keep FOLDER] [--json F]

`smolvlm-256m` has the shape of SmolVLM-256M: a vision transformer of 12 layers at 512 pixels, a Llama of 30 layers,
49,280 words; its limits are 3 minutes, 8 GB, and a second question on the same picture that is answered within a fifth
of the first one's time. `over-2gb` has a decoder that no single ONNX file can hold, and must be read back and verified.
The checkpoint is made in a process of its own, so that only the export is counted. Exit 1 where a limit is passed.
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
from typing import Any

LIMIT_S, LIMIT_GB, LIMIT_AGAIN = 180.0, 8.0, 0.2
ONE_FILE_BYTES = 2 << 30
SHAPES = {"smolvlm-256m": "large", "over-2gb": "heavy"}  # -> its maker in tests/support/chats.py
ROOT = Path(__file__).parents[1]
MAKE = "import sys; from pathlib import Path; from support import chats; getattr(chats, sys.argv[1])(Path(sys.argv[2]))"
EDGEVLM = (sys.executable, "-m", "edgevlm.cli")


def export(shape: str, folder: Path) -> dict[str, Any]:
    """Make the checkpoint in `folder`, export it, and say what that took."""
    checkpoint = folder / "checkpoint"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    subprocess.run([sys.executable, "-c", MAKE, SHAPES[shape], str(checkpoint)], check=True, env=environment)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    subprocess.run([*EDGEVLM, "export", str(checkpoint), "-o", str(folder / "bundle")], check=True)
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = after.ru_maxrss / 1e6  # of the larger of the two children
    files = [path.stat().st_size for path in (folder / "bundle").rglob("*") if path.is_file()]
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(worked, 1),
        "peak_gb": round(peak, 2),
        "bundle_gb": round(sum(files) / 1e9, 2),
        "largest_file_gb": round(max(files) / 1e9, 2),
    }


def first_words(folder: Path) -> dict[str, float]:
    """Milliseconds to the first token of a first and of a second question on a picture: medians of two pictures."""
    figures = folder / "profile.json"
    command = [*EDGEVLM, "profile", str(folder / "bundle"), "--steps", "2", "--warmup", "1", "--json", str(figures)]
    subprocess.run(command, check=True)
    report = json.loads(figures.read_text())
    first, again = (report["chat"][key]["p50"] for key in ("first token", "first token, same picture"))
    return {"first_ms": round(first, 1), "again_ms": round(again, 1), "again_share": round(again / first, 4)}


def measure(shape: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """(the figures, the limits that were passed)."""
    figures = {"shape": shape, **export(shape, folder)}
    if shape == "over-2gb":
        complete = figures["largest_file_gb"] * 1e9 > ONE_FILE_BYTES
        return figures, [] if complete else ["no file over 2 GB was made: nothing was shown"]
    figures |= first_words(folder)
    limits = {"seconds": LIMIT_S, "peak_gb": LIMIT_GB, "again_share": LIMIT_AGAIN}
    return {**figures, "limits": limits}, [key for key, limit in limits.items() if figures[key] > limit]


def main() -> None:
    """Print the figures as JSON; exit 1 where a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="smolvlm-256m")
    parser.add_argument("--keep", type=Path, help="a folder for checkpoint and bundle; else they are deleted")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures, passed = measure(chosen.shape, chosen.keep or Path(temporary))
    print(json.dumps(figures, indent=1))
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")
    if passed:
        sys.exit(f"over the limit: {', '.join(passed)}")


if __name__ == "__main__":
    main()
