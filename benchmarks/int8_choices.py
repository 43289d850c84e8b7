"""What each choice made for int8 costs or gains: observers, and the small products of the head left in floats.

    python benchmarks/int8_choices.py CHECKPOINT LOG [--samples 256] [--json F]

Every row is one int8 bundle, calibrated on the log's calibration episodes and judged on its held-out ones against the
original, in the CPU form: action errors by unit, distance of waypoints, agreement of steps. One fp32 trace serves all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgevlm.data.base import Data
from edgevlm_calibration.policy import POLICY
from edgevlm_calibration.progress import silent
from edgevlm_calibration.recordings import open_log
from edgevlm_calibration.runner import calibrate_on
from edgevlm_export.exporter import Job
from edgevlm_export.families import build
from edgevlm_export.fidelity.policy import CheckpointReference
from edgevlm_export.fidelity.verify import compare
from edgevlm_export.quantization import QUANTIZERS
from edgevlm_export.quantization.base import Models
from edgevlm_export.recipes import PolicyRecipe
from edgevlm_export.stage_graph import PolicyGraph


@dataclass(frozen=True)
class Choice:
    """One way to make int8: weights to `include` although the adapter leaves them out, and to `exclude` as well."""

    name: str
    observer: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


INT8 = QUANTIZERS["int8"]
LAST = ("chunk.weight", "path.weight", "step.weight")
CHOICES = (
    Choice("as exported", "minmax"),
    Choice("ranges by squared error", "mse"),
    Choice("last layers in int8", "minmax", LAST),
    Choice("keypoint products in int8", "minmax", ("fusion.0.grid",)),
    Choice("first convolution in int8", "minmax", ("stem.0.weight",)),
    Choice("first dense layer in int8", "minmax", ("trunk.0.weight",)),
    Choice("heat map in floats too", "minmax", exclude=("fusion.0.heat.weight",)),
)


def row(graph: PolicyGraph, data: Data, models: Models, choice: Choice, samples: int) -> Mapping[str, Any]:
    """The figures of one choice."""
    chosen = replace(
        graph,
        stages=tuple(
            replace(stage, quant_exclude=tuple(sorted({*stage.quant_exclude, *choice.exclude} - {*choice.include})))
            for stage in graph.stages
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        recipe = PolicyRecipe(chosen, data)
        job = Job(recipe, INT8, root / "int8", silent)
        fp32 = job.fp32(models, root / "fp32")
        table = calibrate_on(fp32, data, POLICY, samples=samples, observer=choice.observer)
        (root / "int8").mkdir()
        bundle = job.write(models, table)
        figures = compare(bundle, CheckpointReference(chosen), data)
    units = [unit for unit in figures["units"] if unit["form"] == "cpu"]
    plan = next(plan for plan in figures["plan"] if plan["form"] == "cpu")
    return {
        "choice": choice.name,
        "observer": choice.observer,
        "units": units,
        "plan": plan,
        "steps": figures["data"]["steps"],
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    graph = build(arguments.checkpoint)
    assert isinstance(graph, PolicyGraph)
    data = open_log(arguments.log, graph.contract, None)
    models = Job(PolicyRecipe(graph, data), INT8, Path(), silent).trace()
    rows = []
    for choice in CHOICES:
        rows.append(row(graph, data, models, choice, arguments.samples))
        print(f"{choice.name} (observer {choice.observer})")
        named = [(f"{unit['name']} [{unit['unit']}]", unit) for unit in rows[-1]["units"]]
        plan = rows[-1]["plan"]
        for name, figures in (*named, (f"waypoints [{plan['unit']}]", plan)):
            print(f"    {name}: mean {figures['mean']:.3g}  p99 {figures['p99']:.3g}  worst {figures['worst']:.3g}")
        print(f"    same step: {plan['step_agreement']:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
