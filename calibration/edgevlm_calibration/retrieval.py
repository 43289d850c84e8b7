"""An fp32 retriever, pictures and texts -> activation ranges, through the runtime's own preprocess and graph."""

from __future__ import annotations

from edgevlm.backends import Backend
from edgevlm.bundle import Bundle
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Retriever
from edgevlm_calibration.calibrate import OBSERVER, OPTIONS, ObservingBackend, Seen, table_stages
from edgevlm_calibration.observers import OBSERVERS
from edgevlm_calibration.progress import Progress, silent
from edgevlm_calibration.sources import PictureData
from edgevlm_calibration.table import PictureSplit, Table


def calibrate_retriever(bundle: Bundle, data: PictureData, progress: Progress = silent) -> Table:
    """A table for an fp32 bundle from the calibration pictures and texts of `data`."""
    seen: Seen = {}

    def factory(opened: Bundle, stage: str, options: RuntimeOptions) -> Backend:
        return ObservingBackend(opened, stage, options, seen.setdefault(stage, {}))

    total = len(data.calibration) + len(data.calibration_texts)
    with Retriever(bundle, OPTIONS, backends=factory) as retriever:
        for done, text in enumerate(data.calibration_texts):
            progress("calibrate", done, total)
            retriever.embed_text(text)
        for done, photo in enumerate(data.calibration, len(data.calibration_texts)):
            progress("calibrate", done, total)
            retriever.embed_image(photo.load())
        runs = dict(retriever.stage_runs)
    progress("calibrate", total, total)
    return Table(
        bundle_sha256=bundle.sha256,
        log_sha256=data.sha256,
        observer=OBSERVER,
        requested=total,
        samples=total,
        stage_runs=runs,
        stages=table_stages(seen, OBSERVERS[OBSERVER]),
        split=PictureSplit(
            calibration=tuple(photo.name for photo in data.calibration),
            held_out=tuple(photo.name for photo in data.held_out),
            calibration_texts=data.calibration_texts,
            held_out_texts=data.held_out_texts,
        ),
    )
