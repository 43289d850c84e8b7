"""The policies of LeRobot from the small directories of the tests: a table of what export makes of them.

    PYTHONPATH=tests python benchmarks/policies.py [--json F] [--write docs/lerobot.md]

Weights are seeded, not trained: what int8 costs is what it costs random layers, and a judge may refuse it; the table
says so. `--write` puts the table between the two marks of that page; nothing in it is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

from families import built, size
from support import lerobot_policies as policies

from edgevlm.bundle import Bundle, open_bundle
from edgevlm.errors import FidelityError
from edgevlm.load import load_policy
from edgevlm.manifest.schema import Precision
from edgevlm.options import RuntimeOptions
from edgevlm.profiler import machine
from edgevlm_export.exporter import export

# name -> (golden case, camera -> (H, W))
POLICIES: dict[str, tuple[str, dict[str, tuple[int, int]]]] = {
    "ACT": ("act", dict.fromkeys(("top_eye", "wrist_eye"), (96, 128))),
    "SmolVLA": ("smolvla", policies.EYES),
}
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
RUNS = 15
BEGIN, END = "<!-- made by benchmarks/policies.py -->", "<!-- end -->"


def rows(name: str, work: Path) -> list[dict[str, Any]]:
    """One policy in each precision, judged on a made-up recording."""
    case, sizes = POLICIES[name]
    if case == "smolvla":
        policies.write_smolvla(work)
    else:
        policies.write_policy(work / "policy", case)
        policies.write_robot(work / "robot.yaml", case=case)
        policies.write_log(work / "log.mcap", sizes, policies.INSTRUCTIONS)
    return [row(name, precision, work) for precision in PRECISIONS]


def row(name: str, precision: Precision, work: Path) -> dict[str, Any]:
    """One bundle, or why there is none."""
    result: dict[str, Any] = {"policy": name, "precision": precision}
    try:
        export(
            work / "policy",
            work / precision,
            precision=precision,
            calibration=work / "log.mcap",
            robot=work / "robot.yaml",
        )
    except FidelityError as error:
        return {**result, "refused": str(error)}
    bundle = open_bundle(work / precision)
    fidelity = bundle.records()["fidelity"]
    stages = bundle.manifest.stages
    return {
        **result,
        "driver": bundle.manifest.driver.name,
        "stages": {stage: spec.precision for stage, spec in stages.items()},
        "reasons": {stage: spec.reason for stage, spec in stages.items() if spec.reason},
        "kb": round(size(bundle) / 1024),
        "error": max(control["error"] for control in fidelity["controls"]),
        "controls": {control["control"]: control["factor"] for control in fidelity["controls"]},
        "tensorrt": built(bundle),
        "ms": timed(bundle, POLICIES[name][0]),
    }


def timed(bundle: Bundle, case: str) -> float:
    """The median of an act on a fresh observation; pictures are prepared, looked at, and the chunk is made."""
    recorded, spent = policies.answers(case), []
    with load_policy(bundle.root, RuntimeOptions(intra_threads=1)) as policy:
        policy.warm_up()
        for step in range(RUNS):
            policy.reset()
            begin = time.perf_counter()
            policy.act(policies.observation(policy.contract, recorded, step % 3, policies.INSTRUCTIONS[0]))
            spent.append((time.perf_counter() - begin) * 1e3)
    return round(statistics.median(spent), 2)


def markdown(results: list[dict[str, Any]]) -> str:
    """A list: the controls and a refusal are too long for the cells of a table."""
    lines: list[str] = []
    for one in results:
        if "refused" in one:
            text = f"Refused. {one['refused'][:160]}"
        else:
            stages = ", ".join(f"{name} {precision}" for name, precision in one["stages"].items())
            controls = ", ".join(f"{name} {factor:.1f} times" for name, factor in one["controls"].items())
            text = (
                f"Driver `{one['driver']}`; {stages}; {one['kb']} KB; mean error of a chunk {one['error']:.1e} of a "
                f"spread of 1; controls move it by: {controls} the error; TensorRT builds {one['tensorrt']}; "
                f"{one['ms']} ms an act"
            )
        line = f"* **{one['policy']}, {one['precision']}.** {text}."
        lines += textwrap.wrap(line, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path, help="a page with the two marks")
    args = parser.parse_args()
    results = []
    for name in POLICIES:
        with tempfile.TemporaryDirectory() as work:
            results += rows(name, Path(work))
    host, table = machine(), markdown(results)
    print(table)
    if args.json:
        args.json.write_text(json.dumps({"policies": results, "machine": host}, indent=2) + "\n")
    if args.write:
        page = args.write.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        if END not in rest:
            raise SystemExit(f"{args.write}: expected the marks {BEGIN} and {END}")
        where = f"\nOn {host['cpu']}, {host['processors']} processors, one thread:\n\n"
        args.write.write_text(f"{before}{BEGIN}{where}{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
