"""fp32, int8 and PyTorch eager side by side: one step from a 640x480 frame, interleaved in one run.

    python benchmarks/step.py --checkpoint DIR --fp32 BUNDLE --int8 BUNDLE [--rounds N] [--json F]

Every round gives each contestant a block of 10 steps on the same new frames, in an order that changes. Printed are
medians and the median of the paired ratios. PyTorch runs twice: the model as it is published (the whole window in one
forward), and with image features cached by hand as edgevlm does; both resize with Pillow and run without gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from edgevlm.bundle import open_bundle, write_manifest
from edgevlm.load import load_policy
from edgevlm.manifest.contract import Observation
from edgevlm.manifest.image_ops import Normalize, Resize
from edgevlm.manifest.schema import FuseSpec, Manifest, PolicyManifest
from edgevlm.options import RuntimeOptions
from edgevlm.profiler import machine, summarize, synthetic_observations
from edgevlm.tasks import Policy, Session
from edgevlm_export.families import build
from edgevlm_export.stage_graph import PolicyGraph, WindowInputs

WIDTH, HEIGHT = 640, 480
CORES = len(os.sched_getaffinity(0))
TRIAL = 100
BLOCK = 10  # steps in a row, so that a contestant is measured as it runs on a robot: not right after another engine
LIMITS = {
    "engine int8 / fp32": 0.75,
    "step int8 / fp32": 1.0,
    "step int8 / PyTorch eager": 0.25,
    "overhead int8 p50 ms": 0.3,
}


class EdgevlmStep:
    """One bundle, with its cameras set to 640x480 (the preprocess resizes to the model's size either way)."""

    def __init__(self, root: Path, options: RuntimeOptions, work: Path) -> None:
        bundle = _with_camera(root, work / root.name)
        self.threads = options.intra_threads or _fastest(bundle, options)
        self.policy = load_policy(bundle, options.model_copy(update={"intra_threads": self.threads}))
        self.session = self.policy.session()
        self.engine_ns: list[int] = []
        self.overhead_ns: list[int] = []
        self.preprocess_ns: list[int] = []

    def __call__(self, observation: Observation) -> None:
        self.session.act(observation)

    def note(self) -> None:
        """Take the parts of the step that just ran."""
        times = dict(self.session.last_times_ns)
        step, preprocess = times.pop("step"), times.pop("preprocess", 0)
        self.engine_ns.append(sum(times.values()))
        self.preprocess_ns.append(preprocess)
        self.overhead_ns.append(step - sum(times.values()) - preprocess)


def _instructions(policy: Policy) -> tuple[str, ...]:
    """One instruction, which is then encoded once."""
    spec = policy.contract.instruction
    return spec.examples[:1] if spec else ("",)


def _fastest(bundle: Path, options: RuntimeOptions) -> int:
    """The number of threads, up to all cores, with the lowest median step over a short trial."""
    medians = {}
    for threads in range(1, CORES + 1):
        with load_policy(bundle, options.model_copy(update={"intra_threads": threads})) as policy:
            session = policy.session()
            source = synthetic_observations(policy.contract, _instructions(policy), seed=2)
            for _ in range(TRIAL):
                session.act(next(source))
            medians[threads] = statistics.median(_timed(session, next(source)) for _ in range(TRIAL))
    return min(medians, key=lambda threads: medians[threads])


def _timed(session: Session, observation: Observation) -> int:
    session.act(observation)
    return session.last_times_ns["step"]


def _with_camera(root: Path, destination: Path) -> Path:
    """A copy of a bundle whose contract asks for 640x480 frames."""
    bundle = open_bundle(root)
    shutil.copytree(root, destination)
    contract = bundle.manifest.require(PolicyManifest).contract
    cameras = tuple(camera.model_copy(update={"width": WIDTH, "height": HEIGHT}) for camera in contract.cameras)
    changed = contract.model_copy(update={"cameras": cameras})

    def build_manifest(files: Mapping[str, Any]) -> Manifest:
        return bundle.manifest.model_copy(update={"contract": changed, "files": files})

    write_manifest(destination, build_manifest)
    return destination


class EagerStep:
    """The original model in PyTorch eager with Pillow's resize."""

    def __init__(
        self, graph: PolicyGraph, tokenize: Callable[[str], Any], normalize: Callable[[Any], Any], *, full_window: bool
    ) -> None:
        self._graph, self._tokenize, self._normalize, self._full_window = graph, tokenize, normalize, full_window
        assert isinstance(graph.driver, FuseSpec)
        self._args = graph.driver.args
        assert self._args.text is not None and self._args.pool is not None  # the tabletop policy has both
        self._text, self._pool = self._args.text, self._args.pool
        self._cache: dict[str, list[Any]] = {camera.name: [] for camera in graph.contract.cameras}
        self._stages = {stage.name: stage for stage in graph.stages}
        self._texts: dict[str, Any] = {}

    def __call__(self, observation: Observation) -> None:
        slots = len(self._graph.contract.window.offsets_s)
        for name, frame in observation.frames.items():
            pixels = _pillow(frame.value, self._graph.preprocess[name])
            self._cache[name].append(pixels if self._full_window else self._vision(name, pixels))
            self._cache[name] = ([self._cache[name][0]] * slots + self._cache[name])[-slots:]
        assert observation.state is not None
        state = self._normalize(observation.state.value)
        if self._full_window:
            ids, mask = self._tokenize(observation.instruction)
            window = {name: np.concatenate(frames) for name, frames in self._cache.items()}
            self._graph.reference(WindowInputs(pixels=window, ids=ids, mask=mask, state=state))
        else:
            self._cached(observation.instruction, state)

    def _run(self, stage: str, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            result = self._stages[stage].module(*inputs)
        return result if isinstance(result, tuple) else (result,)

    def _vision(self, camera: str, pixels: NDArray[np.float32]) -> torch.Tensor:
        return self._run(self._args.vision[camera], [torch.from_numpy(pixels)])[0]

    def _cached(self, instruction: str, state: NDArray[np.float32]) -> None:
        args = self._args
        if instruction not in self._texts:
            ids, mask = self._tokenize(instruction)
            outputs = self._run(self._text, [torch.tensor(ids), torch.tensor(mask)])
            self._texts[instruction] = {
                port.name: value for port, value in zip(self._stages[self._text].outputs, outputs, strict=True)
            }
        known = dict(self._texts[instruction])
        known |= {f"{name}_{slot}": value for name, frames in self._cache.items() for slot, value in enumerate(frames)}
        pool = self._stages[self._pool]
        outputs = self._run(self._pool, [known[port.name] for port in pool.inputs])
        known |= {port.name: value for port, value in zip(pool.outputs, outputs, strict=True)}
        head = self._stages[args.head]
        self._run(
            args.head, [torch.from_numpy(state) if port.kind == "state" else known[port.name] for port in head.inputs]
        )


def _pillow(image: NDArray[np.uint8], ops: Any) -> NDArray[np.float32]:
    picture = Image.fromarray(image)
    for op in ops:
        if isinstance(op, Resize):
            chosen = Image.Resampling.BILINEAR if op.filter == "bilinear" else Image.Resampling.BICUBIC
            picture = picture.resize((op.width, op.height), chosen)
        elif isinstance(op, Normalize):
            values = (np.asarray(picture, np.float32) * op.scale - np.array(op.mean, np.float32)) / np.array(
                op.std, np.float32
            )
            return np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)
    raise SystemExit("the preprocess of this bundle does not end with normalize")


def _measure(contestants: Mapping[str, Any], source: Any, rounds: int, warmup: int) -> dict[str, list[int]]:
    durations: dict[str, list[int]] = {name: [] for name in contestants}
    names = list(contestants)
    for turn in range(warmup + rounds):
        observations = [next(source) for _ in range(BLOCK)]
        names = names[1:] + names[:1]
        for name in names:
            for observation in observations:
                started = time.perf_counter_ns()
                contestants[name](observation)
                took = time.perf_counter_ns() - started
                if turn >= warmup:
                    durations[name].append(took)
                    if isinstance(contestants[name], EdgevlmStep):
                        contestants[name].note()
    return durations


def _ratio(a: list[int], b: list[int]) -> dict[str, float]:
    """Ratio of medians, and the median of the paired ratios."""
    return {
        "of_medians": statistics.median(a) / statistics.median(b),
        "paired_median": statistics.median(x / y for x, y in zip(a, b, strict=True)),
    }


def main() -> None:
    """Run the comparison, print it, write it; exit 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "fp32", "int8"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=0, help="for everybody; by default each bundle's fastest number")
    parser.add_argument("--spinning", action="store_true", help="let the engine's threads spin, as PyTorch's do")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads or CORES)
    options = RuntimeOptions(intra_threads=args.threads, spinning=args.spinning)
    with tempfile.TemporaryDirectory() as work:
        figures = _compare(args, options, Path(work))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(0 if all(row["met"] for row in figures["limits"].values()) else 1)


def _compare(args: argparse.Namespace, options: RuntimeOptions, work: Path) -> dict[str, Any]:
    fp32, int8 = (EdgevlmStep(root, options, work) for root in (args.fp32, args.int8))
    graph = build(args.checkpoint)
    assert isinstance(graph, PolicyGraph)
    policy = fp32.policy
    assert policy.tokenizer is not None
    eager = {
        name: EagerStep(graph, policy.tokenizer.encode, policy.normalize_state, full_window=full_window)
        for name, full_window in (("PyTorch eager", True), ("PyTorch eager, cached by hand", False))
    }
    contestants = {"edgevlm fp32": fp32, "edgevlm int8": int8, **eager}
    source = synthetic_observations(policy.contract, _instructions(policy), seed=1)
    durations = _measure(contestants, source, args.rounds, warmup=5)
    steps = {name: summarize(times) for name, times in durations.items()}
    ratios = {
        "engine int8 / fp32": _ratio(int8.engine_ns, fp32.engine_ns),
        "step int8 / fp32": _ratio(durations["edgevlm int8"], durations["edgevlm fp32"]),
        "step int8 / PyTorch eager": _ratio(durations["edgevlm int8"], durations["PyTorch eager"]),
        "step int8 / PyTorch eager, cached by hand": _ratio(
            durations["edgevlm int8"], durations["PyTorch eager, cached by hand"]
        ),
    }
    parts = {
        name: {
            "engine": summarize(one.engine_ns),
            "preprocess": summarize(one.preprocess_ns),
            "overhead": summarize(one.overhead_ns),
        }
        for name, one in (("edgevlm fp32", fp32), ("edgevlm int8", int8))
    }
    measured = {name: row["of_medians"] for name, row in ratios.items()}
    measured["overhead int8 p50 ms"] = float(parts["edgevlm int8"]["overhead"]["p50"])
    limits = {
        name: {"limit": limit, "measured": measured[name], "met": measured[name] <= limit}
        for name, limit in LIMITS.items()
    }
    print(f"threads: fp32 {fp32.threads}, int8 {int8.threads}, PyTorch {torch.get_num_threads()}")
    _print(steps, parts, ratios, limits)
    return {
        "frame": [WIDTH, HEIGHT],
        "rounds": args.rounds,
        "options": options.model_dump(mode="json"),
        "threads": {"fp32": fp32.threads, "int8": int8.threads, "torch": torch.get_num_threads()},
        "steps_ms": steps,
        "parts_ms": parts,
        "ratios": ratios,
        "limits": limits,
        "machine": machine() | {"torch": torch.__version__},
    }


def _print(
    steps: Mapping[str, Any], parts: Mapping[str, Any], ratios: Mapping[str, Any], limits: Mapping[str, Any]
) -> None:
    print(f"one step from a {WIDTH}x{HEIGHT} frame, ms")
    for name, row in steps.items():
        print(f"  {name:34s} p50 {row['p50']:7.3f}  p95 {row['p95']:7.3f}  p99 {row['p99']:7.3f}  n {row['n']}")
        for part, values in parts.get(name, {}).items():
            print(f"    {part:32s} p50 {values['p50']:7.3f}  p95 {values['p95']:7.3f}")
    print("ratios")
    for name, row in ratios.items():
        print(f"  {name:44s} {row['of_medians']:.3f} of medians, {row['paired_median']:.3f} paired")
    for name, row in limits.items():
        print(f"  {'met   ' if row['met'] else 'MISSED'} {name}: {row['measured']:.3f}, at most {row['limit']}")


if __name__ == "__main__":
    main()
