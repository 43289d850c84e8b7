"""The composed bundle, through the runtime, beside one native forward of the upstream model with its own processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support import hub, owls
from transformers.image_utils import load_image

import edgevlm
from edgevlm_export.fidelity.retriever import shuffle_patches
from edgevlm_export.report import ExportReport

Exported = tuple[Path, ExportReport]
TOLERANCE = 1e-4  # of the scale of what is compared
CONTROL = 100  # a wrong input must move what is compared at least this many tolerances
LABELS = ["a photo of a cat", "a red cup on a table", "two people shaking hands", "ein Foto von einem Hund"]
NAMES = ("chelsea.png", "coffee.png", "rocket.jpg", "china.jpg", "astronaut.png")  # shrunk alike by every Pillow
CLASSES = {"owlvit": "OwlViT", "owlv2": "Owlv2"}


@dataclass(frozen=True)
class Native:
    """The upstream model and its processor."""

    model: Any
    processor: Any

    def inputs(self, path: Path, labels: list[str] = LABELS) -> dict[str, Any]:
        return dict(self.processor(images=load_image(str(path)), text=[labels], return_tensors="pt"))

    def __call__(self, **inputs: Any) -> Any:
        with torch.no_grad():
            return self.model(**inputs)

    def detections(self, path: Path, threshold: float) -> dict[str, Any]:
        """Upstream's own way to boxes in pixels."""
        size = load_image(str(path)).size[::-1]
        (one,) = self.processor.post_process_grounded_object_detection(
            outputs=self(**self.inputs(path)), target_sizes=torch.tensor([size]), threshold=threshold,
            text_labels=[LABELS],
        )  # fmt: skip
        return dict(one)


def open_native(family: str, source: Path) -> Native:
    kind = CLASSES[family]
    pictures, tokenizer = (
        getattr(transformers, name).from_pretrained(source) for name in (f"{kind}ImageProcessorPil", "CLIPTokenizer")
    )
    model = getattr(transformers, f"{kind}ForObjectDetection").from_pretrained(source).eval()
    return Native(model, getattr(transformers, f"{kind}Processor")(pictures, tokenizer))


@pytest.fixture(scope="module")
def native(owl_family: str, owl_source: Path) -> Native:
    return open_native(owl_family, owl_source)


@pytest.fixture(scope="module")
def paths() -> list[Path]:
    known = {path.name: path for path in hub.photographs()}
    return [known[name] for name in NAMES]


def gap(got: Any, want: Any) -> float:
    """The largest error, relative to the scale of what was wanted."""
    expected = np.asarray(want)
    return float(np.abs(np.asarray(got) - expected).max() / np.abs(expected).max())


def test_logits_boxes_and_objectness_are_upstreams(
    owl_family: str, owl_fp32: Exported, native: Native, paths: list[Path]
) -> None:
    with edgevlm.load_detector(owl_fp32[0]) as detector:
        for path in paths:
            want, got = native(**native.inputs(path)), detector.regions(path, LABELS)
            assert gap(got.logits, want.logits[0]) < TOLERANCE
            full = native.detections(path, 0.0)  # every region, for no score is 0
            assert gap(got.boxes, full["boxes"]) < TOLERANCE
            if owl_family == "owlv2":
                assert gap(got.objectness, want.objectness_logits[0]) < TOLERANCE
            else:
                assert got.objectness is None


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.5, 0.9])
def test_detections_are_those_of_upstreams_post_processing(
    threshold: float, owl_fp32: Exported, native: Native, paths: list[Path]
) -> None:
    retained = []
    with edgevlm.load_detector(owl_fp32[0]) as detector:
        for path in paths:
            want, got = native.detections(path, threshold), detector.detect(path, LABELS, threshold)
            order = torch.argsort(-want["scores"], stable=True).tolist()
            assert len(got.labels) == len(order)
            if order:
                np.testing.assert_allclose(got.scores, want["scores"][order], atol=TOLERANCE)
                np.testing.assert_allclose(got.boxes, want["boxes"][order], atol=0.01)  # pixels
                assert list(got.labels) == [want["text_labels"][i] for i in order]
            retained.append(len(order))
    assert 0 < sum(retained) < 64 * len(paths) and len(set(retained)) > 1  # neither all nor nothing


def test_labels_go_with_their_columns(owl_fp32: Exported, paths: list[Path]) -> None:
    with edgevlm.load_detector(owl_fp32[0]) as detector:
        forth, back = (detector.regions(paths[0], labels).logits for labels in (LABELS, LABELS[::-1]))
        np.testing.assert_allclose(forth, back[:, ::-1], rtol=1e-5, atol=1e-5)
        assert gap(forth, back) > CONTROL * TOLERANCE
        assert detector.stage_runs == {"text": len(LABELS), "vision": 1}
        detector.detect(paths[0], [*LABELS, "one more"])
        assert detector.stage_runs == {"text": len(LABELS) + 1, "vision": 1}
        detector.detect(paths[1], LABELS)
        assert detector.stage_runs == {"text": len(LABELS) + 1, "vision": 2}


def _shuffled(ids: Any) -> Any:
    """The first words in another order; begin, end and filling stay where they are."""
    changed = ids.clone()
    changed[:, 1:4] = ids[:, [3, 1, 2]]
    return changed


TEXT_CONTROLS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "shuffled-tokens": lambda inputs: {"input_ids": _shuffled(inputs["input_ids"])},
    "other-labels": lambda inputs: {name: inputs[name].roll(1, 0) for name in ("input_ids", "attention_mask")},
}


@pytest.mark.parametrize("control", TEXT_CONTROLS)
def test_wrong_words_move_the_logits_and_no_box(control: str, native: Native, paths: list[Path]) -> None:
    for path in paths:
        inputs = native.inputs(path)
        want, wrong = native(**inputs), native(**{**inputs, **TEXT_CONTROLS[control](inputs)})
        assert gap(wrong.logits, want.logits) > CONTROL * TOLERANCE
        assert gap(wrong.pred_boxes, want.pred_boxes) == 0


def test_another_picture_moves_logits_and_boxes(native: Native, paths: list[Path]) -> None:
    all_of_them = [native.inputs(path) for path in paths]
    for inputs, others in zip(all_of_them, [*all_of_them[1:], all_of_them[0]], strict=True):
        want, wrong = native(**inputs), native(**{**inputs, "pixel_values": others["pixel_values"]})
        assert gap(wrong.logits, want.logits) > CONTROL * TOLERANCE
        assert gap(wrong.pred_boxes, want.pred_boxes) > CONTROL * TOLERANCE


def test_shuffled_patches_move_logits_and_boxes(owl_fp32: Exported, paths: list[Path]) -> None:
    with edgevlm.load_detector(owl_fp32[0]) as detector:
        for path in paths:
            image = np.asarray(load_image(str(path)))
            want, wrong = detector.regions(image, LABELS), detector.regions(shuffle_patches(image), LABELS)
            assert gap(wrong.logits, want.logits) > CONTROL * TOLERANCE, path.name
            assert gap(wrong.boxes, want.boxes) > CONTROL * TOLERANCE, path.name


@pytest.mark.parametrize("tower", ["vision_model", "text_model"])
def test_shifted_positions_move_the_logits(tower: str, owl_family: str, owl_source: Path, paths: list[Path]) -> None:
    native = open_native(owl_family, owl_source)
    inputs = native.inputs(paths[0])
    want = native(**inputs)
    with torch.no_grad():
        table = getattr(owls.tower_of(native.model), tower).embeddings.position_embedding
        table.weight.copy_(torch.roll(table.weight, 1, 0))
    wrong = native(**inputs)
    assert gap(wrong.logits, want.logits) > CONTROL * TOLERANCE
    moved = gap(wrong.pred_boxes, want.pred_boxes)
    assert moved > CONTROL * TOLERANCE if tower == "vision_model" else moved == 0


def test_a_box_belongs_to_the_place_of_its_region(owl_family: str, owl_source: Path, paths: list[Path]) -> None:
    native = open_native(owl_family, owl_source)
    inputs = native.inputs(paths[0])
    want = native(**inputs).pred_boxes
    native.model.box_bias = torch.roll(native.model.box_bias, 1, 0)
    assert gap(native(**inputs).pred_boxes, want) > CONTROL * TOLERANCE


def test_the_export_measured_the_same_and_ran_its_controls(owl_fp32: Exported) -> None:
    fidelity = owl_fp32[1].fidelity
    (row,) = fidelity["detection"]
    assert row["logit_relative_error"] < TOLERANCE and row["box_max_abs_error"] < TOLERANCE
    assert row["same_best_label"] == 1.0 and row["box_iou_p05"] > 0.999 and fidelity["data"]["kind"] == "synthetic"
    assert {control["control"] for control in fidelity["controls"]} == {
        *("other-picture", "other-picture-boxes", "shuffled-patches", "shuffled-patches-boxes"),
        *("other-label", "reversed-words"),
    }
    assert all(control["factor"] >= CONTROL for control in fidelity["controls"])


def test_a_label_that_upstream_would_cut_off_is_refused(owl_fp32: Exported, native: Native, paths: list[Path]) -> None:
    long = "a cat and a dog " * 20
    with (
        edgevlm.load_detector(owl_fp32[0]) as detector,
        pytest.raises(edgevlm.errors.InstructionError, match=r"at most 16 tokens.*use fewer words"),
    ):
        detector.detect(paths[0], ["a cat", long])
    cut = native.processor(text=[[long]], truncation=True, return_tensors="pt")["input_ids"]
    assert cut.shape == (1, owls.TOKENS)
