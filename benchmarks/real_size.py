"""Encoders at the size that people run, weights at random: a 640x480 frame to an embedding, beside what else there is.

    PYTHONPATH=tests python benchmarks/real_size.py [--work clip-b32 ...] [--threads N] [--rounds N] [--keep FOLDER]
        [--json F]

Peers in the same run, in an order that changes, on a new frame in each round: PyTorch with upstream's processor in
float32 and in bfloat16, ONNX Runtime's own dynamic int8 of the same graph, and the fp32 bundle. A ratio is one of
medians. Exit 1 where a ratio is over its target.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from support import hub, picture_files
from transformers import AutoImageProcessor, AutoModel

from edgevlm.bundle import open_bundle
from edgevlm.engines import ENGINES, quantized_kernels
from edgevlm.load import load_retriever
from edgevlm.options import RuntimeOptions
from edgevlm.profiler import machine, summarize

WIDTH, HEIGHT = 640, 480
WARMUP, PICTURES = 3, 24
EDGEVLM = (sys.executable, "-m", "edgevlm.cli")
INSTALLED: tuple[Any, ...] = tuple(name for name, row in ENGINES.items() if find_spec(row.module))
Frame = NDArray[np.uint8]
Contestant = Callable[[Frame], object]


class Work(NamedTuple):
    """A model's size: how its checkpoint is made, and the most that int8 may take of a peer's time on one thread."""

    make: Callable[[Path], Path]
    targets: Mapping[str, float]


WORKS = {
    "clip-b32": Work(hub.clip_b32, {"PyTorch": 0.20, "PyTorch bfloat16": 0.40, "ONNX Runtime dynamic int8": 0.90}),
    "siglip-b16": Work(hub.siglip_b16, {"PyTorch": 0.31}),
}


def prepare(work: Work, folder: Path) -> None:
    """Checkpoint, pictures and both bundles, unless an earlier run left them."""
    pictures = folder / "pictures"
    if not pictures.exists():
        pictures.mkdir(parents=True)
        for seed in range(PICTURES):
            (pictures / f"{seed:02}.png").write_bytes(picture_files.png(picture_files.scene((HEIGHT, WIDTH), seed)))
    if not (folder / "checkpoint").exists():
        work.make(folder / "checkpoint")
    for precision in ("fp32", "int8"):
        if not (folder / precision).exists():
            calibration = ("--calib", str(pictures), "--precision", precision)
            command = (*EDGEVLM, "export", str(folder / "checkpoint"), "-o", str(folder / precision), *calibration)
            subprocess.run(command, check=True)


def contestants(folder: Path, threads: int) -> dict[str, Contestant]:
    """Each turns a frame (480, 640, 3) into an embedding."""
    torch.set_num_threads(threads)
    processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
        folder / "checkpoint", use_fast=False
    )
    model = AutoModel.from_pretrained(folder / "checkpoint").eval()
    half = AutoModel.from_pretrained(folder / "checkpoint", dtype=torch.bfloat16).eval()

    def eager(network: Any) -> Contestant:
        def embed(frame: Frame) -> object:
            pixels = processor(images=frame, return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                return network.get_image_features(pixel_values=pixels.to(network.dtype))

        return embed

    ours = {
        f"edgevlm {precision}, {engine}": load_retriever(
            folder / precision, RuntimeOptions(engine=engine, intra_threads=threads)
        ).embed_image
        for precision in ("int8", "fp32")
        for engine in INSTALLED
    }
    return {
        **ours,
        "PyTorch": eager(model),
        "PyTorch bfloat16": eager(half),
        "ONNX Runtime dynamic int8": _dynamic(folder, processor, threads),
    }


def _dynamic(folder: Path, processor: Any, threads: int) -> Contestant:
    bundle = open_bundle(folder / "fp32")
    file = folder / "dynamic.onnx"
    if not file.exists():
        quantize_dynamic(bundle.path(bundle.manifest.stages["vision"].forms["cpu"]), file, weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    (name,) = (port.name for port in session.get_inputs())
    return lambda frame: session.run(None, {name: processor(images=frame, return_tensors="np")["pixel_values"]})


def interleaved(rivals: Mapping[str, Contestant], rounds: int) -> dict[str, list[int]]:
    """Nanoseconds of each in each round."""
    durations: dict[str, list[int]] = {name: [] for name in rivals}
    names, random = list(rivals), np.random.default_rng(0)
    for turn in range(WARMUP + rounds):
        frame = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        names = names[1:] + names[:1]
        for name in names:
            begin = time.perf_counter_ns()
            rivals[name](frame)
            if turn >= WARMUP:
                durations[name].append(time.perf_counter_ns() - begin)
    return durations


def measure(name: str, folder: Path, threads: int, rounds: int) -> dict[str, Any]:
    """The rows of one work, one for each peer."""
    work = WORKS[name]
    prepare(work, folder)
    durations = interleaved(contestants(folder, threads), rounds)
    bundle, rows, kernels = open_bundle(folder / "int8"), [], {}
    for engine in INSTALLED:
        ours = durations[f"edgevlm int8, {engine}"]
        counted = quantized_kernels(bundle, RuntimeOptions(engine=engine, intra_threads=threads))
        kernels[engine] = {stage: each._asdict() for stage, each in counted.items()}
        for peer, theirs in durations.items():
            if theirs is not ours:
                rows.append(
                    {
                        "work": f"{name}: {WIDTH}x{HEIGHT} frame to embedding, int8",
                        "engine": engine,
                        "peer": peer,
                        "threads": threads,
                        "ours_ms": summarize(ours)["p50"],
                        "peer_ms": summarize(theirs)["p50"],
                        "ratio": statistics.median(ours) / statistics.median(theirs),
                        "target": work.targets.get(peer) if threads == 1 else None,
                        "n": len(ours),
                    }
                )
    return {"rows": rows, "integer_kernels": kernels}


def main() -> None:
    """Print the rows, write them; exit 1 where a ratio is over its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=sorted(WORKS), action="append")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--keep", type=Path, help="a folder for checkpoints and bundles, used again by the next run")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    measured = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in chosen.work or WORKS:
            folder = (chosen.keep or Path(temporary)) / name
            measured[name] = measure(name, folder, chosen.threads, chosen.rounds)
    rows = [row for each in measured.values() for row in each["rows"]]
    for row in rows:
        target = f", at most {row['target']}" if row["target"] else ""
        print(
            f"{row['work']} in {row['engine']}: {row['ours_ms']:.1f} ms, {row['peer']} {row['peer_ms']:.1f} ms, "
            f"{row['ratio']:.3f}{target}"
        )
    if chosen.json:
        kernels = {name: each["integer_kernels"] for name, each in measured.items()}
        figures = {"environment": machine() | {"torch": torch.__version__}, "rows": rows, "integer_kernels": kernels}
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")
    over = [row for row in rows if row["target"] and row["ratio"] > row["target"]]
    if over:
        sys.exit(f"over the target: {[(row['work'], row['engine'], row['peer']) for row in over]}")


if __name__ == "__main__":
    main()
