"""Does a detector do what its source does? Logits and boxes of every region, through the runtime, beside a judge.

The judge is the original model in one native forward (with its own tokenizer), or another bundle. Negative controls
must move logits and boxes by far more than the bundle is off; the two int8 forms must agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.data.pictures import PictureData, make_up_pictures, open_pictures
from edgevlm.errors import FidelityError
from edgevlm.manifest.schema import PICTURE, DetectorManifest
from edgevlm.preprocess import PicturePreprocessor
from edgevlm.tasks import Detector
from edgevlm_calibration.pictures import DETECTOR
from edgevlm_calibration.progress import Progress, silent
from edgevlm_export.fidelity.comparison import (
    OPTIONS,
    Comparison,
    OfBundle,
    OfCheckpoint,
    Reference,
    compare,
    is_exact,
    open_source,
)
from edgevlm_export.fidelity.controls import ControlFigures, check_controls, control_figures
from edgevlm_export.fidelity.metrics import centred_cosine, check_alike, cosine, judged_on
from edgevlm_export.fidelity.retriever import shuffle_patches
from edgevlm_export.stage_graph import DetectorGraph, VisionCall

PICTURES = 24  # compared at most
FP32_LIMIT = 1e-4  # largest error of an fp32 bundle's logits and objectness, relative to the largest one, and of boxes
# In another precision: of the worst picture's logits without their mean, and of what in logits, boxes and objectness
# varies from picture to picture.
COSINE_LIMIT = 0.98
# The overlap (IoU) of a region's box with the original's: on average, and of 19 of 20 boxes (the 5th percentile),
# which by the usual rule of detection are the same box then.
IOU_LIMIT, IOU_WORST_LIMIT = 0.75, 0.5

Images = Sequence[NDArray[np.uint8]]
Pictures = list[VisionCall]  # one for each picture


class DetectorReference(Reference, Protocol):
    """Who says what the right answer is."""

    def answer(self, images: Images, texts: Sequence[str]) -> Pictures: ...


class OriginalDetector(OfCheckpoint[DetectorGraph]):
    """The PyTorch model in one native forward for each picture, with all labels; preprocess is the runtime's."""

    def answer(self, images: Images, texts: Sequence[str]) -> Pictures:
        """The original's answer."""
        prepare = PicturePreprocessor(self.graph.preprocess[PICTURE])
        return [self.graph.reference(prepare(image), texts) for image in images]


class BundleDetector(OfBundle[Detector]):
    """Another bundle, through the runtime."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, Detector(bundle, OPTIONS))

    def answer(self, images: Images, texts: Sequence[str]) -> Pictures:
        """The other bundle's answer."""
        return ask(self.model, images, texts)


def ask(detector: Detector, images: Images, texts: Sequence[str]) -> Pictures:
    """What a loaded bundle says, its boxes as the model has them: shares of the frame, by their centres."""
    frame = detector.bundle.manifest.require(DetectorManifest).driver.args.frame
    found = []
    for image in images:
        regions = detector.regions(image, texts)
        height, width = image.shape[:2]
        across, down = (max(height, width),) * 2 if frame == "square" else (width, height)
        low, high = np.split(regions.boxes / np.array([across, down, across, down], np.float32), 2, axis=1)
        boxes = np.concatenate([(low + high) / 2, high - low], axis=1)
        found.append(VisionCall(regions.logits, boxes, regions.objectness))
    return found


def compare_detector(
    bundle: Bundle, judge: DetectorReference, data: PictureData, progress: Progress = silent
) -> dict[str, Any]:
    """The figures of an opened bundle on the held-out pictures and texts.

    Raises:
        FidelityError: the bundle is off, a control did not move its answer, or the forms differ.
    """
    photos, texts = data.held_out[:PICTURES], data.held_out_texts
    images = [photo.load() for photo in photos]
    want = judge.answer(images, texts)
    comparison = Comparison(
        name="detection",
        open=DETECTOR.open,
        ask=partial(ask, images=images, texts=texts),
        figures=partial(_figures, want=want),
        controls=lambda detector, got: _controls(detector, got, images, texts, want),
        visits=[partial(Detector.regions, image=one, labels=[text]) for one, text in zip(images, texts, strict=False)],
    )
    told = judged_on(data, [photo.name for photo in photos], texts)
    figures, controls = compare(bundle, judge, comparison, told, progress)
    _accept(bundle, judge, figures["detection"], controls)
    return figures


def verify_detector(bundle: Bundle, against: Path, data: Path | None, progress: Progress) -> dict[str, Any]:
    """The figures of `bundle` against a checkpoint directory or another bundle; pictures are made up without `data`.

    Raises:
        BundleError, CheckpointError, FamilyError, CalibrationError, TaskError: something does not open.
        FidelityError: as `compare_detector`.
    """
    source = open_source(against, DetectorGraph, "detector")
    judge: DetectorReference = BundleDetector(source) if isinstance(source, Bundle) else OriginalDetector(source)
    return compare_detector(bundle, judge, make_up_pictures() if data is None else open_pictures(data), progress)


def _shape(said: Pictures) -> str:
    """What of an answer must be alike before it can be compared."""
    one = said[0]
    things = "no objectness" if one.objectness is None else "objectness"
    return f"{len(said)} pictures of {one.logits.shape[0]} regions by {one.logits.shape[1]} labels with {things}"


def _figures(got: Pictures, want: Pictures) -> dict[str, Any]:
    check_alike("detector", _shape(got), _shape(want))
    logits, right = _stacked(got), _stacked(want)
    boxes, right_boxes = (np.stack([one.boxes for one in said]) for said in (got, want))
    scale, error = float(np.abs(right).max()), float(np.abs(logits - right).max())
    shared = np.concatenate([overlaps(one.boxes, other.boxes) for one, other in zip(got, want, strict=True)])
    figures = {
        "logit_scale": scale,
        "logit_max_abs_error": error,
        "logit_relative_error": error / max(scale, float(np.finfo(np.float32).tiny)),
        "logit_cosine_min": min(cosine(a - b.mean(), b - b.mean()) for a, b in zip(logits, right, strict=True)),
        "logit_centred_cosine": centred_cosine(logits, right),
        "box_max_abs_error": float(np.abs(boxes - right_boxes).max()),
        "box_centred_cosine": centred_cosine(boxes, right_boxes),
        "box_iou_mean": float(shared.mean()),
        "box_iou_p05": float(np.percentile(shared, 5)),
        "same_best_label": float(np.mean(logits.argmax(2) == right.argmax(2))),
    }
    things, right_things = ([one.objectness for one in said if one.objectness is not None] for said in (got, want))
    if right_things:
        found, wanted = np.stack(things), np.stack(right_things)
        scale = max(float(np.abs(wanted).max()), float(np.finfo(np.float32).tiny))
        figures["objectness_relative_error"] = float(np.abs(found - wanted).max()) / scale
        figures["objectness_centred_cosine"] = centred_cosine(found, wanted)
    return figures


def _stacked(pictures: Pictures) -> NDArray[np.float32]:
    """(I, N, T)"""
    return np.stack([one.logits for one in pictures])


def overlaps(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """The intersection over the union of each box (N, 4), by its centre, and the same row of the other array."""
    corners = [
        np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
        for boxes in (left.astype(np.float64), right.astype(np.float64))
    ]
    one, other = corners
    shared = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    common = np.clip(shared, 0, None).prod(axis=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in corners]
    result: NDArray[np.float64] = common / np.maximum(areas[0] + areas[1] - common, np.finfo(np.float64).tiny)
    return result


def _controls(
    detector: Detector, got: Pictures, images: Images, texts: Sequence[str], want: Pictures
) -> tuple[ControlFigures, ...]:
    """Wrong pictures and wrong labels, by how far they move logits and boxes."""
    right, boxes = _stacked(want), np.stack([one.boxes for one in want])
    off = np.abs(_stacked(got) - right)
    box_off = np.abs(np.stack([one.boxes for one in got]) - boxes)
    long = [i for i, text in enumerate(texts) if len(set(text.split())) > 2]
    mixed = ask(detector, [shuffle_patches(image) for image in images], texts)
    turned = ask(detector, images, [" ".join(reversed(texts[i].split())) for i in long]) if long else []
    found = [
        control_figures("other-picture", np.abs(np.roll(right, 1, axis=0) - right), off),
        control_figures("other-picture-boxes", np.abs(np.roll(boxes, 1, axis=0) - boxes), box_off),
        control_figures("shuffled-patches", np.abs(_stacked(mixed) - right), off),
        control_figures("shuffled-patches-boxes", np.abs(np.stack([one.boxes for one in mixed]) - boxes), box_off),
        control_figures("other-label", np.abs(np.roll(right, 1, axis=2) - right), off),
    ]
    if turned:
        found.append(control_figures("reversed-words", np.abs(_stacked(turned) - right[:, :, long]), off))
    return tuple(found)


def _accept(
    bundle: Bundle, judge: DetectorReference, compared: Sequence[dict[str, Any]], controls: tuple[ControlFigures, ...]
) -> None:
    exact = is_exact(bundle, judge)
    for row in compared:
        off = max(row["logit_relative_error"], row["box_max_abs_error"], row.get("objectness_relative_error", 0.0))
        if exact and off > FP32_LIMIT:
            raise FidelityError(
                f"expected fp32 logits and boxes within {FP32_LIMIT} of the original's (objectness, too), got "
                f"{off:.3g}; tokenizer or cut is wrong: compare each stage in the family's adapter"
            )
        cosines = {name: value for name, value in row.items() if "_cosine" in name}
        worst = min(cosines, key=lambda name: cosines[name])
        if cosines[worst] < COSINE_LIMIT:
            raise FidelityError(
                f"form {row['form']!r}: expected {worst} of {COSINE_LIMIT} or more with the original's, got "
                f"{cosines[worst]:.4f}; give more calibration pictures, or try --precision fp16"
            )
        if row["box_iou_mean"] < IOU_LIMIT or row["box_iou_p05"] < IOU_WORST_LIMIT:
            raise FidelityError(
                f"form {row['form']!r}: expected boxes of an overlap (IoU) with the original's of {IOU_LIMIT} or more "
                f"in the mean and {IOU_WORST_LIMIT} at the 5th percentile, got {row['box_iou_mean']:.4f} and "
                f"{row['box_iou_p05']:.4f}; give more calibration pictures, or try --precision fp16"
            )
    check_controls(controls, "logits or boxes")
