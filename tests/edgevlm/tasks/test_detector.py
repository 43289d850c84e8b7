"""Claims about the detector, on a tiny bundle with real engines."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support import spotter, tiny
from support.functions import graph_of

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.drivers import RegionsDriver
from edgevlm.errors import (
    BundleError,
    ContractError,
    InstructionError,
    NonFiniteError,
    PictureError,
    SessionError,
    ShapeError,
    TaskError,
)
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Detector, Regions

LABELS = ("push the red cup", "lift the blue cup", "open the drawer")


def picture(seed: int, height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def open_one(root: Path, **more: Any) -> tuple[Detector, tiny.Counted]:
    counted = tiny.Counted()
    bundle = open_bundle(spotter.regions(root / "bundle", **more))
    return Detector(bundle, RuntimeOptions(intra_threads=1), engines=counted), counted


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Detector, tiny.Counted]]:
    detector, counted = open_one(tmp_path)
    yield detector, counted
    detector.close()


def test_load_gives_what_the_manifest_says(tmp_path: Path) -> None:
    root = spotter.regions(tmp_path / "bundle")
    with edgevlm.load(root) as detector, edgevlm.load_detector(str(root)) as other:
        assert isinstance(detector, edgevlm.Detector)
        one, two = detector.detect(picture(1), LABELS), other.detect(picture(1), LABELS)
        np.testing.assert_array_equal(one.boxes, two.boxes)


def test_detections_come_best_first_with_the_label_that_fits_best(opened: tuple[Detector, tiny.Counted]) -> None:
    raw = opened[0].regions(picture(1), LABELS)
    assert raw.logits.shape == (16, 3) and raw.boxes.shape == (16, 4) and raw.labels == LABELS
    result = opened[0].detect(picture(1), LABELS, threshold=0.0)
    assert len(result.labels) == len(result.scores) == len(result.boxes) == 16
    assert {result.boxes.dtype, result.scores.dtype} == {np.dtype(np.float32)} and np.ptp(result.scores) > 0.1
    assert (np.diff(result.scores) <= 0).all()
    scores = 1 / (1 + np.exp(-raw.logits.astype(np.float64)))
    order = np.argsort(-scores.max(axis=1), kind="stable")
    np.testing.assert_allclose(result.scores, scores.max(axis=1)[order], rtol=1e-5)
    np.testing.assert_array_equal(result.boxes, raw.boxes[order])
    assert result.labels == tuple(LABELS[i] for i in raw.logits.argmax(axis=1)[order])
    assert len(set(result.labels)) > 1


def test_a_score_must_be_above_the_threshold_and_not_at_it(opened: tuple[Detector, tiny.Counted]) -> None:
    every = opened[0].detect(picture(1), LABELS, threshold=0)
    middle = float(every.scores[7])
    retained = opened[0].detect(picture(1), LABELS, threshold=middle)
    assert len(retained.labels) == int((every.scores > np.float32(middle)).sum()) <= 7
    np.testing.assert_array_equal(retained.boxes, every.boxes[: len(retained.labels)])
    nothing = opened[0].detect(picture(1), LABELS, threshold=1)
    assert nothing.boxes.shape == (0, 4) and nothing.scores.shape == (0,) and nothing.labels == ()


def test_a_label_scores_by_itself(opened: tuple[Detector, tiny.Counted]) -> None:
    full = opened[0].regions(picture(1), LABELS).logits
    alone = opened[0].regions(picture(1), LABELS[1:2]).logits
    np.testing.assert_allclose(full[:, 1:2], alone, rtol=1e-6)


def test_boxes_are_in_pixels_of_the_input_picture(tmp_path: Path) -> None:
    grown, _ = open_one(tmp_path)
    image = picture(1, 8, 8)
    small, large = (grown.regions(one, LABELS).boxes for one in (image, np.kron(image, np.ones((3, 5, 1), np.uint8))))
    sides = np.ptp(large.reshape(-1, 2, 2), axis=1) / np.ptp(small.reshape(-1, 2, 2), axis=1)
    assert (large[:, 2:] > large[:, :2]).all() and np.isfinite(sides).all()
    assert large[:, [0, 2]].max() > 20 and small.max() < 16  # 40 and 8 pixels wide
    padded, _ = open_one(tmp_path / "square", frame="square")
    tall = padded.regions(picture(2, 30, 10), LABELS)
    centres = tall.boxes.reshape(-1, 2, 2).mean(axis=1)
    assert centres[:, 0].max() > 15  # the square's columns reach to 30 although the picture ends at 10


def test_a_new_label_costs_a_text_and_a_new_picture_costs_a_look(opened: tuple[Detector, tiny.Counted]) -> None:
    detector, counted = opened
    detector.detect(picture(1), LABELS[:2])
    assert counted.runs == {"text": 2, "vision": 1}
    detector.detect(picture(1), LABELS)
    assert counted.runs == {"text": 3, "vision": 1} and "vision" not in detector.last_times_ns
    detector.detect(picture(2), LABELS)
    assert counted.runs == {"text": 3, "vision": 2} == dict(detector.stage_runs)
    assert set(detector.last_times_ns) == {"step", "preprocess", "vision"}


def test_a_buffer_that_is_written_again_is_another_picture(opened: tuple[Detector, tiny.Counted]) -> None:
    buffer = picture(1)
    before = opened[0].regions(buffer, LABELS).logits
    buffer[:] = picture(2)
    after = opened[0].regions(buffer, LABELS).logits
    np.testing.assert_array_equal(after, opened[0].regions(picture(2), LABELS).logits)
    assert not np.allclose(before, after, atol=1e-2)


def test_only_a_few_pictures_are_cached(opened: tuple[Detector, tiny.Counted]) -> None:
    for seed in (*range(8), *range(8)):
        opened[0].detect(picture(seed), LABELS[:1])
    assert opened[1].runs == {"text": 1, "vision": 16}


def test_what_is_returned_may_be_written_on(opened: tuple[Detector, tiny.Counted]) -> None:
    first = opened[0].regions(picture(1), LABELS)
    want = [first.boxes.copy(), first.logits.copy(), np.array(first.objectness)]
    assert first.objectness is not None
    for array in (first.boxes, first.logits, first.objectness):
        array[:] = 7
    again = opened[0].regions(picture(1), LABELS)
    for got, requested in zip((again.boxes, again.logits, again.objectness), want, strict=True):
        np.testing.assert_array_equal(got, requested)


def test_a_picture_and_its_file_are_the_same(opened: tuple[Detector, tiny.Counted], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), picture(3)[..., ::-1])
    want = opened[0].regions(picture(3), LABELS).logits
    np.testing.assert_array_equal(opened[0].regions(path, LABELS).logits, want)
    assert opened[1].runs["vision"] == 1


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((4, 4), np.uint8), ShapeError),
        (np.zeros((4, 4, 4), np.uint8), ShapeError),
        (np.zeros((4, 4, 3), np.float32), ShapeError),
        (np.zeros((0, 4, 3), np.uint8), ShapeError),
        (None, ShapeError),
        ([], ShapeError),
        ([picture(1), picture(2)], ShapeError),
        ("nowhere.png", PictureError),
    ],
    ids=["grey", "rgba", "float", "empty", "none", "no-list", "list", "no-file"],
)
def test_what_is_no_picture_is_refused_and_nothing_breaks(
    opened: tuple[Detector, tiny.Counted], image: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        opened[0].detect(image, LABELS)
    assert opened[0].regions(picture(1), LABELS).logits.shape == (16, 3)


def test_a_bomb_and_a_file_that_is_no_picture_are_refused(
    opened: tuple[Detector, tiny.Counted], tmp_path: Path
) -> None:
    (tmp_path / "words.png").write_text("no picture")
    assert cv2.imwrite(str(tmp_path / "bomb.png"), np.zeros((12_000, 9_000), np.uint8))
    with pytest.raises(PictureError):
        opened[0].detect(tmp_path / "words.png", LABELS)
    with pytest.raises(PictureError, match="decompression bomb"):
        opened[0].detect(tmp_path / "bomb.png", LABELS)
    assert "vision" not in opened[1].runs


def test_a_line_is_refused_where_it_would_be_smoothed_as_a_part_of_a_square(tmp_path: Path) -> None:
    detector, counted = open_one(tmp_path, frame="square")
    with pytest.raises(PictureError, match="smoothed as a part of a square"):
        detector.detect(np.zeros((1, 20_000, 3), np.uint8), LABELS)
    assert "vision" not in counted.runs
    assert detector.regions(np.zeros((1, 16_000, 3), np.uint8), LABELS).logits.shape == (16, 3)


@pytest.mark.parametrize(
    ("labels", "error"),
    [((), ContractError), ("cat", ContractError), (None, ContractError), ({"a", "b"}, ContractError),
     (("",), InstructionError), (("  ",), InstructionError), ((7,), InstructionError), ((["a"],), InstructionError),
     (("\ud800",), InstructionError), (("open the drawer", "the cup " * 9), InstructionError)],
)  # fmt: skip
def test_labels_that_say_nothing_or_too_much_are_refused(
    opened: tuple[Detector, tiny.Counted], labels: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        opened[0].detect(picture(1), labels)
    assert "vision" not in opened[1].runs


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), float("inf"), "0.1", None, True, [0.1]])
def test_a_threshold_that_is_no_share_is_refused_before_anything_runs(
    opened: tuple[Detector, tiny.Counted], threshold: Any
) -> None:
    with pytest.raises(ContractError, match=r"threshold: expected a number in 0\.\.1"):
        opened[0].detect(picture(1), LABELS, threshold)
    assert not opened[1].runs
    raw = opened[0].regions(picture(1), LABELS)
    assert isinstance(raw, Regions)
    with pytest.raises(ContractError):
        raw.above(threshold)


def test_threads_share_one_detector(opened: tuple[Detector, tiny.Counted]) -> None:
    want = [opened[0].regions(picture(seed), LABELS).logits for seed in range(6)]
    got: dict[int, NDArray[np.float32]] = {}

    def work(seed: int) -> None:
        for _ in range(20):
            got[seed] = opened[0].regions(picture(seed), LABELS).logits

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(6):
        np.testing.assert_array_equal(got[seed], want[seed])


def test_a_closed_one_says_so(tmp_path: Path) -> None:
    detector, counted = open_one(tmp_path)
    detector.close()
    assert sorted(counted.closed) == ["text", "vision"]
    with pytest.raises(SessionError, match="detector: expected an open one"):
        detector.detect(picture(1), LABELS)


def test_a_bundle_of_another_task_is_a_typed_error(tmp_path: Path) -> None:
    result, dual = spotter.regions(tmp_path / "found"), tiny.dual(tmp_path / "dual")
    with pytest.raises(TaskError, match=r"task 'detector'.*'retriever'"):
        edgevlm.load_detector(dual)
    with pytest.raises(TaskError, match=r"task 'retriever'.*'detector'"):
        edgevlm.load_retriever(result)


def test_a_model_that_overflows_is_a_typed_error(tmp_path: Path) -> None:
    root = spotter.regions(tmp_path / "bundle")
    tiny.rewrite(root, lambda data: data["preprocess"]["image"][1].update(std=[1e-36] * 3))
    with edgevlm.load_detector(root) as detector, pytest.raises(NonFiniteError, match="try an fp32 bundle"):
        detector.detect(picture(1), LABELS)


def _outputs(data: dict[str, Any]) -> dict[str, Any]:
    return {port["kind"]: port for port in data["stages"]["vision"]["outputs"]}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data["driver"]["args"].update(text="vision"), "regions driver expected ids"),
        (lambda data: data["driver"]["args"].update(vision="text"), "expected pixels"),
        (lambda data: data["driver"]["args"].update(vision="nowhere"), "stages that do not exist"),
        (lambda data: data["driver"]["args"].update(frame="circle"), "frame"),
        (lambda data: _outputs(data)["shift"].update(kind="scale"), "perhaps 'objectness', as outputs"),
        (lambda data: _outputs(data)["shift"].update(kind="features"), "perhaps 'objectness', as outputs"),
        (lambda data: data.update(text=None), r"needs \['text'\]"),
        (lambda data: data.update(task="retriever"), "needs a driver among"),
        (lambda data: data["preprocess"]["image"][0].update(width=6), "expected pixels"),
        (lambda data: data["preprocess"].update(front=data["preprocess"]["image"]), "needs `preprocess`"),
    ],
)
def test_parts_that_do_not_fit_are_refused_when_opening(tmp_path: Path, edit: Any, message: str) -> None:
    root = spotter.regions(tmp_path / "bundle")
    tiny.rewrite(root, edit)
    with pytest.raises(BundleError, match=message):
        edgevlm.load(root)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: _outputs(data)["shift"].update(shape=[1, 15]), "for N = 16"),
        (lambda data: _outputs(data)["objectness"].update(shape=[1, 16, 1]), "for N = 16"),
        (lambda data: _outputs(data)["boxes"].update(shape=[1, 16, 5]), "for N = 16"),
        (lambda data: _outputs(data)["regions"].update(shape=[1, 16]), r"regions \(1, N, D\)"),
        (lambda data: _outputs(data)["regions"].update(shape=[2, 16, 6]), r"regions \(1, N, D\)"),
        (lambda data: _outputs(data)["regions"].update(shape=[1, 16, 7]), r"embedding \(1, 7\)"),
    ],
)
def test_the_driver_looks_at_shapes_before_it_trusts_them(tmp_path: Path, edit: Any, message: str) -> None:
    root = spotter.regions(tmp_path / "bundle")
    tiny.rewrite(root, edit)
    manifest = open_bundle(root).manifest
    with pytest.raises(BundleError, match=message):
        RegionsDriver(manifest.driver.args, manifest.stages, graph_of({}))
