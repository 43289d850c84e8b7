"""Write tests/compat/format_1_0: the bundle that every later version must open, and what it answered when it was made.

Run `python tests/compat/make_format_1_0.py` once for a format; what a release has written is never written again. Needs
neither torch nor onnx: the stages come from tests/support/stages.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import tiny

import edgevlm
from edgevlm.bundle import write_record
from edgevlm.manifest.contract import Contract, Observation
from edgevlm.manifest.schema import FORMAT

PLACE = Path(__file__).parent / "format_1_0"
BUNDLES = {"mono": tiny.mono, "duo": tiny.duo}


def steps(contract: Contract) -> Iterator[Observation]:
    """Eight steps, the instruction changes at the fifth, one frame is lost, the last stamp is a restarted clock."""
    for index in (0, 1, 2, 4, 5, 6, 7):
        yield tiny.observation(contract, index, tiny.COMMANDS[index > 4])
    yield tiny.observation(contract, 8, tiny.COMMANDS[1], stamp_ns=5)


def answer(root: Path) -> dict[str, Any]:
    """What a bundle gives for `steps`."""
    with edgevlm.load(root) as policy:
        session = policy.session()
        chunks = [session.act(step) for step in steps(policy.contract)]
        return {
            "bundle_sha256": policy.bundle.sha256,
            "values": [chunk.values.tolist() for chunk in chunks],
            "observed_ns": [chunk.observed_ns for chunk in chunks],
            "valid_until_ns": [chunk.valid_until_ns for chunk in chunks],
            "waypoints": [chunk.plan.waypoints.tolist() for chunk in chunks if chunk.plan],
            "confidence": [chunk.plan.confidence.tolist() for chunk in chunks if chunk.plan],
            "stage_runs": dict(session.stage_runs),
            "resets": session.resets,
        }


def main() -> None:
    """Both bundles and their answers."""
    if FORMAT != "edgevlm.bundle/1.0":
        raise SystemExit(
            f"this script made bundles of format 1.0; this version writes {FORMAT}: copy it under another name"
        )
    for name, make in BUNDLES.items():
        root = make(PLACE / name)
        write_record(root, "answer", answer(root))
    sizes = {path: path.stat().st_size for path in PLACE.rglob("*") if path.is_file()}
    sys.stdout.write(json.dumps({"files": len(sizes), "bytes": sum(sizes.values())}) + "\n")


if __name__ == "__main__":
    main()
