"""Every family from a small checkpoint of its upstream architecture: a table of what export makes of it.

    PYTHONPATH=tests python benchmarks/families.py [--family NAME ...] [--json F] [--write docs/families.md]

The checkpoints are made here with upstream's code, few layers and seeded weights: parity does not depend on the size,
bytes and milliseconds do. `--write` puts the table between the two marks of that page; nothing in it is typed by hand.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from support import captioners, chats, hub, owls, pairs

from edgevlm.bundle import Bundle, open_bundle
from edgevlm.load import load
from edgevlm.manifest.schema import Precision
from edgevlm.options import RuntimeOptions
from edgevlm.profiler import machine
from edgevlm.tasks import Chat, Detector, Retriever, Scorer
from edgevlm_export.exporter import export

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "CLIP": hub.clip,
    "SigLIP": hub.siglip,
    "LLaVA 1.5": chats.llava,
    "Idefics3": partial(chats.idefics3, seed=1),  # other weights than SmolVLM's, which has the same layers
    "SmolVLM": chats.smolvlm,
    "PaliGemma": chats.paligemma,
    "PaliGemma 2": chats.paligemma2,
    "BLIP-2 (OPT)": captioners.blip2,
    "BLIP captions": captioners.blip,
    "BLIP VQA": captioners.blip_vqa,
    "OWL-ViT": owls.owlvit,
    "OWLv2": owls.owlv2,
    "BLIP matching": captioners.blip_matching,
    "VisualBERT": pairs.visual_bert,
}
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
RUNS = 15
SIZE = (480, 640, 3)  # of the picture that is timed
BEGIN, END = "<!-- made by benchmarks/families.py -->", "<!-- end -->"
HEAD = (
    "| family | driver | int8 stages | KB fp32 / fp16 / int8 | fp32 error | int8 cosine | builds | ms fp32 / int8 |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def row(name: str, make: Callable[[Path], Path], work: Path) -> dict[str, Any]:
    """One family: exported three times, read back, asked."""
    source = make(work / "source")
    photos = work / "photos"
    photos.mkdir()
    for path in hub.photographs():
        (photos / path.name).symlink_to(path)
    data = pairs.regions_folder(work / "regions") if make is pairs.visual_bert else photos
    bundles = {}
    for precision in PRECISIONS:
        export(source, work / precision, precision=precision, calibration=data)
        bundles[precision] = open_bundle(work / precision)
    manifest = bundles["int8"].manifest
    return {
        "family": name,
        "task": manifest.task,
        "driver": manifest.driver.name,
        "stages": {stage: spec.precision for stage, spec in manifest.stages.items()},
        "reasons": {stage: spec.reason for stage, spec in manifest.stages.items() if spec.reason},
        "kb": {precision: round(size(bundle) / 1024) for precision, bundle in bundles.items()},
        "fidelity": {precision: parity(bundle) for precision, bundle in bundles.items()},
        "tensorrt": {precision: built(bundles[precision]) for precision in ("fp32", "int8")},
        "ms": timed(bundles["fp32"], bundles["int8"]),
    }


def size(bundle: Bundle) -> int:
    """Bytes that a robot with one engine needs: the forms of the CPU, and what belongs to no stage."""
    stages = bundle.manifest.stages.values()
    others = {path for stage in stages for form, path in stage.forms.items() if form != "cpu"}
    others -= {stage.forms["cpu"] for stage in stages}
    return sum(entry.bytes for path, entry in bundle.manifest.files.items() if path not in others)


def parity(bundle: Bundle) -> dict[str, float]:
    """What the export measured against upstream's own forward, over all forms: the worst of it."""
    fidelity = json.loads((bundle.root / "records" / "fidelity.json").read_text())
    forms = next(fidelity[name] for name in ("chat", "retrieval", "scoring", "detection") if name in fidelity)
    cosines = [value for form in forms for key, value in form.items() if key.endswith("cosine_min")]
    errors = [form[key] for form in forms for key in ("logit_relative_error", "box_max_abs_error") if key in form]
    row = {"relative_error": max(errors), "cosine": min(cosines)}
    if "chat" in fidelity:
        row |= {key: min(form[key] for form in forms) for key in ("same_answers", "answers", "tokens")}
    return row


def built(bundle: Bundle) -> str:
    """How many stages TensorRT-RTX parses and builds ahead of time for SM86; nothing is run on a GPU."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return "package not installed"
    from support.rtx import build

    stages = bundle.manifest.stages
    return f"{sum(build(bundle, name) is not None for name in stages)}/{len(stages)}"


def timed(first: Bundle, second: Bundle) -> dict[str, float]:
    """Medians of two bundles that take turns: a new picture each time, a label or up to eight words."""
    options = RuntimeOptions(intra_threads=1)
    spent: dict[Path, list[float]] = {first.root: [], second.root: []}
    random = np.random.default_rng(0)
    opened = {root: load(root, options) for root in spent}
    for _ in range(RUNS + 2):
        picture = random.integers(0, 256, SIZE, np.uint8)
        for root, model in opened.items():
            begin = time.perf_counter()
            if isinstance(model, Retriever):
                model.classify(picture, ["a photo of a cup", "a photo of a cat"])
            elif isinstance(model, Detector):
                model.detect(picture, ["a photo of a cup", "a photo of a cat"])
            elif isinstance(model, Scorer):
                model.score(random.standard_normal((36, model.width), np.float32), "is there a cup on the table?")
            elif isinstance(model, Chat):
                model.ask(image=picture, text="What is on the table?", max_new_tokens=8)
            spent[root].append((time.perf_counter() - begin) * 1e3)
    for model in opened.values():
        model.close()
    names = {"fp32": first.root, "int8": second.root}
    return {name: round(statistics.median(spent[root][2:]), 2) for name, root in names.items()}


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = []
    for one in rows:
        exact, small, ms = one["fidelity"]["fp32"], one["fidelity"]["int8"], one["ms"]
        error = f"{exact['relative_error']:.1e}"
        if "answers" in exact:
            error += f"; {exact['same_answers']:.0f}/{exact['answers']:.0f}"
        cells = (
            one["family"],
            one["driver"],
            ", ".join(name if form == "int8" else f"{name} in {form}" for name, form in one["stages"].items()),
            " / ".join(str(one["kb"][precision]) for precision in PRECISIONS),
            error,
            f"{small['cosine']:.4f}",
            f"{one['tensorrt']['fp32']}, {one['tensorrt']['int8']}",
            f"{ms['fp32']} / {ms['int8']}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    """Make, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", action="append", choices=list(FAMILIES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path, help="a page with the two marks")
    args = parser.parse_args()
    rows = []
    for name in args.family or FAMILIES:
        with tempfile.TemporaryDirectory() as work:
            rows.append(row(name, FAMILIES[name], Path(work)))
        print(json.dumps(rows[-1]), flush=True)
    host = machine()
    table = markdown(rows)
    print(table)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"families": rows, "machine": host}, indent=2) + "\n")
    if args.write:
        page = args.write.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        if not rest or END not in rest:
            raise SystemExit(f"{args.write}: expected the marks {BEGIN} and {END}")
        where = f"\nOn {host['cpu']}, {host['processors']} processors, one thread:\n\n"
        args.write.write_text(f"{before}{BEGIN}{where}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
