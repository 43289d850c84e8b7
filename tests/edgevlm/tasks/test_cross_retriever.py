"""Claims about a retriever that reads pictures and texts together, on tiny bundles with real engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import paired, tiny
from support.functions import graph_of

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.drivers import CrossDriver
from edgevlm.errors import BundleError, InstructionError, TaskError
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Retriever

WORDS = ("push the red cup", "lift the blue cup", "open the drawer")


def picture(seed: int, height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def open_cross(root: Path, **more: Any) -> tuple[Retriever, tiny.Counted]:
    counted = tiny.Counted()
    bundle = open_bundle(paired.cross(root / "bundle", **more))
    return Retriever(bundle, RuntimeOptions(intra_threads=1), engines=counted), counted


def test_vision_runs_once_for_each_picture_and_the_head_for_each_pair(tmp_path: Path) -> None:
    retriever, counted = open_cross(tmp_path)
    result = retriever.match([picture(0), picture(1)], WORDS)
    assert result.logits.shape == result.scores.shape == (2, 3) and result.logits.dtype == np.float32
    assert counted.runs == {"vision": 2, "head": 6}
    np.testing.assert_allclose(result.scores, 1 / (1 + np.exp(-result.logits.astype(np.float64))), rtol=1e-5)
    assert set(retriever.last_times_ns) == {"preprocess", "vision", "head", "step"}


def test_one_picture_asked_in_other_ways_is_looked_at_once(tmp_path: Path) -> None:
    retriever, counted = open_cross(tmp_path)
    retriever.match([picture(0)], WORDS[:1])
    retriever.match([picture(0)], WORDS[1:])
    retriever.embed_image(picture(0))
    assert counted.runs == {"vision": 1, "head": 3}
    for _ in range(3):  # two cameras in turn
        retriever.match([picture(0), picture(1)], WORDS)
    assert counted.runs["vision"] == 2


def test_pairs_do_not_depend_on_their_neighbours(tmp_path: Path) -> None:
    retriever, _ = open_cross(tmp_path)
    full = retriever.match([picture(0), picture(1)], WORDS).logits
    for i in range(2):
        for t, text in enumerate(WORDS):
            assert retriever.match([picture(i)], [text]).logits[0, 0] == full[i, t]
    result = retriever.classify(picture(1), WORDS)
    np.testing.assert_allclose(result.scores, 1 / (1 + np.exp(-full[1].astype(np.float64))), rtol=1e-5)
    assert result.best == WORDS[int(full[1].argmax())] and np.ptp(full) > 0.05


def test_embeddings_are_the_models_own_and_of_length_one(tmp_path: Path) -> None:
    retriever, counted = open_cross(tmp_path)
    observed, text_vector = retriever.embed_image(picture(0)), retriever.embed_text(WORDS[0])
    assert np.linalg.norm(observed) == pytest.approx(1.0, abs=1e-6) == np.linalg.norm(text_vector)
    retriever.embed_text(WORDS[0])
    assert counted.runs == {"vision": 1, "text": 1}


def test_a_model_that_only_reads_pairs_has_no_embedding_of_a_text(tmp_path: Path) -> None:
    retriever, counted = open_cross(tmp_path, alone=False)
    assert not retriever.encodes_texts
    with pytest.raises(TaskError, match=r"embeddings of texts.*use match"):
        retriever.embed_text(WORDS[0])
    assert retriever.match([picture(0)], WORDS).logits.shape == (1, 3) and "text" not in counted.runs


def test_a_bad_text_is_refused_before_anything_is_run(tmp_path: Path) -> None:
    retriever, counted = open_cross(tmp_path)
    with pytest.raises(InstructionError, match="use fewer words"):
        retriever.match([picture(0)], [WORDS[0], "the cup " * 9])
    assert counted.runs == {}


def test_a_picture_may_have_no_embedding(tmp_path: Path) -> None:
    root = paired.cross(tmp_path / "bundle", separate_vision=False)
    with edgevlm.load_retriever(root) as retriever:
        with pytest.raises(TaskError, match="embeddings of pictures"):
            retriever.embed_image(picture(0))
        assert retriever.match([picture(0)], WORDS).logits.shape == (1, 3)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data["driver"]["args"].update(vision=None), "where no stage makes|expected vision"),
        (lambda data: data["driver"]["args"].update(scores="softmax"), "scores that can be compared"),
        (lambda data: data["driver"]["args"].update(text="vision"), "one embedding as output"),
        (lambda data: data["preprocess"]["image"][1].update(width=6), "expected pixels"),
        (lambda data: data.update(labels=["yes"]), "nothing else of"),
    ],
)
def test_parts_that_do_not_fit_are_refused_when_opening(tmp_path: Path, edit: Any, message: str) -> None:
    root = paired.cross(tmp_path / "bundle")
    tiny.rewrite(root, edit)
    with pytest.raises(BundleError, match=message):
        edgevlm.load(root)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data["stages"]["vision"]["outputs"].pop(0), "what the head looks at"),
        (lambda data: data["stages"]["vision"]["outputs"][0].update(shape=[1, 8, 2, 3]), "what the head looks at"),
        (lambda data: data["stages"]["vision"]["inputs"][0].update(kind="features"), "pixels as its one input"),
        (lambda data: data["stages"]["head"]["inputs"][0].update(kind="embeds"), "expected ids and something"),
        (lambda data: data["stages"]["head"]["outputs"][0].update(shape=[1, 3]), "scores of 2 columns"),
        (lambda data: data["stages"]["head"]["outputs"][0].update(shape=[1, 1, 2]), r"the shape \(1, C\)"),
        (lambda data: data["stages"]["text"]["outputs"][0].update(kind="scores"), "one embedding as output"),
        (
            lambda data: data["stages"]["text"]["outputs"][0].update(shape=[1, 7]),
            r"embeddings of one size.*'vision': 6.*'text': 7",
        ),
        (lambda data: data["stages"]["vision"]["outputs"][2].update(shape=[1, 2, 6]), r"one embedding \(1, D\)"),
    ],
)
def test_ports_that_do_not_fit_are_named(tmp_path: Path, edit: Any, message: str) -> None:
    root = paired.cross(tmp_path / "bundle")
    tiny.rewrite(root, edit)
    manifest = open_bundle(root).manifest
    with pytest.raises(BundleError, match=message):
        CrossDriver(manifest.driver.args, manifest.stages, graph_of({}))
