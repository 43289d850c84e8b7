"""Claims about the retriever, on tiny bundles with real engines."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support import paired, spotter, tiny

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.errors import (
    BundleError,
    ContractError,
    InstructionError,
    PictureError,
    SessionError,
    ShapeError,
    TaskError,
)
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Policy, Retriever
from edgevlm.text import TextEncoder

WORDS = ("push the red cup", "lift the blue cup", "open the drawer")


def picture(seed: int, height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def open_dual(root: Path, **more: Any) -> tuple[Retriever, tiny.Counted]:
    counted = tiny.Counted()
    bundle = open_bundle(tiny.dual(root / "bundle", **more))
    return Retriever(bundle, RuntimeOptions(intra_threads=1), engines=counted), counted


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Retriever, tiny.Counted]]:
    retriever, counted = open_dual(tmp_path)
    yield retriever, counted
    retriever.close()


def test_load_gives_what_the_manifest_says(tmp_path: Path) -> None:
    with edgevlm.load(tiny.dual(tmp_path / "dual")) as retriever, edgevlm.load(tiny.mono(tmp_path / "mono")) as policy:
        assert isinstance(retriever, edgevlm.Retriever) and isinstance(policy, Policy)


def test_softmax_scores_share_one_among_the_labels(opened: tuple[Retriever, tiny.Counted]) -> None:
    result = opened[0].classify(picture(1), WORDS)
    assert result.labels == WORDS and result.scores.shape == (3,) and result.scores.dtype == np.float32
    assert result.scores.sum() == pytest.approx(1.0, abs=1e-6) and np.ptp(result.scores) > 0.01
    assert result.best == WORDS[int(np.argmax(result.scores))]


def test_sigmoid_scores_do_not_depend_on_the_other_labels(tmp_path: Path) -> None:
    retriever, _ = open_dual(tmp_path, masked=True, scores="sigmoid", bias=-3.0)
    full, alone = retriever.classify(picture(1), WORDS), retriever.classify(picture(1), WORDS[1:2])
    assert full.scores[1] == alone.scores[0] and not np.isclose(full.scores.sum(), 1.0)
    match = retriever.match([picture(1)], WORDS)
    np.testing.assert_allclose(match.scores, 1 / (1 + np.exp(-match.logits.astype(np.float64))), rtol=1e-5)


def test_logits_are_scale_times_cosine_plus_bias(tmp_path: Path) -> None:
    retriever, _ = open_dual(tmp_path, bias=-2.0, scores="sigmoid")
    images, texts = [picture(1), picture(2, 9, 40)], WORDS
    logits = retriever.match(images, texts).logits
    for i, image in enumerate(images):
        for t, text in enumerate(texts):
            observed, text_vector = retriever.embed_image(image), retriever.embed_text(text)
            assert np.linalg.norm(observed) == pytest.approx(1.0, abs=1e-6) == np.linalg.norm(text_vector)
            assert logits[i, t] == pytest.approx(10.0 * float(observed @ text_vector) - 2.0, abs=1e-5)


def test_a_text_and_a_picture_are_encoded_once(opened: tuple[Retriever, tiny.Counted]) -> None:
    retriever, counted = opened
    for seed in range(3):
        retriever.classify(picture(seed), WORDS)
    retriever.embed_text(WORDS[0])
    assert counted.runs == {"text": 3, "vision": 3} == dict(retriever.stage_runs)
    want = retriever.match([picture(2)], WORDS[:1]).logits
    retriever.match([picture(2).copy(order="F")], WORDS[1:])
    retriever.embed_image(picture(2))
    assert counted.runs == {"text": 3, "vision": 3} and "vision" not in retriever.last_times_ns
    np.testing.assert_array_equal(retriever.match([picture(2), picture(3)], WORDS[:1]).logits[:1], want)
    assert counted.runs["vision"] == 4


@pytest.mark.parametrize(
    "write", [tiny.dual, partial(tiny.dual, masked=True), paired.cross, paired.scorer, spotter.regions]
)
def test_a_new_text_is_tokenized_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    encode, texts = TextEncoder.encode, list[str]()

    def counted(encoder: TextEncoder, text: str) -> Any:
        texts.append(text)
        return encode(encoder, text)

    monkeypatch.setattr(TextEncoder, "encode", counted)
    with edgevlm.load(write(tmp_path / "bundle")) as model:
        if isinstance(model, edgevlm.Scorer):
            model.score(paired.regions(), WORDS[0])
        elif isinstance(model, edgevlm.Detector):
            model.regions(picture(1), WORDS[:1])
        else:
            model.match([picture(1), picture(2)], WORDS[:1])
    assert texts == [WORDS[0]]


def test_only_a_few_pictures_are_cached(opened: tuple[Retriever, tiny.Counted]) -> None:
    for seed in (*range(8), *range(8)):
        opened[0].embed_image(picture(seed))
    assert opened[1].runs == {"vision": 16}


def test_a_buffer_that_is_written_again_is_another_picture(opened: tuple[Retriever, tiny.Counted]) -> None:
    buffer = picture(1)
    before = opened[0].embed_image(buffer)
    retained = before.copy()
    buffer[:] = picture(2)
    after = opened[0].embed_image(buffer)
    np.testing.assert_array_equal(after, opened[0].embed_image(picture(2)))
    assert not np.allclose(before, after, atol=1e-2)
    before[:] = 7
    np.testing.assert_array_equal(opened[0].embed_image(picture(1)), retained)


def test_a_picture_and_its_file_give_the_same_vector(opened: tuple[Retriever, tiny.Counted], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), picture(3)[..., ::-1])
    want = opened[0].embed_image(picture(3))
    np.testing.assert_array_equal(opened[0].embed_image(path), want)
    np.testing.assert_array_equal(opened[0].embed_image(str(path)), want)
    assert not np.allclose(opened[0].embed_image(picture(4)), want, atol=1e-3)


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((4, 4), np.uint8), ShapeError),
        (np.zeros((4, 4, 4), np.uint8), ShapeError),
        (np.zeros((4, 4, 3), np.float32), ShapeError),
        (np.zeros((0, 4, 3), np.uint8), ShapeError),
        (None, ShapeError),
        ("nowhere.png", PictureError),
        (np.zeros((1, 200_000, 3), np.uint8), PictureError),
    ],
    ids=["grey", "rgba", "float", "empty", "none", "no-file", "line"],
)
def test_what_is_no_picture_is_refused_and_nothing_breaks(
    opened: tuple[Retriever, tiny.Counted], image: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        opened[0].classify(image, WORDS)
    assert opened[0].classify(picture(1), WORDS).scores.shape == (3,)


@pytest.mark.parametrize(
    ("labels", "error"),
    [((), ContractError), ("cat", ContractError), (("",), InstructionError), (("  ",), InstructionError),
     ((7,), InstructionError), ((["a"],), InstructionError), (("\ud800",), InstructionError),
     (("the cup " * 9,), InstructionError), (None, ContractError), ({"a cup"}, ContractError),
     ({"a cup": 1}, ContractError), ((one for one in WORDS), ContractError), (b"cup", ContractError),
     (np.array(WORDS), ContractError), (7, ContractError), (("a cup", None), InstructionError)],
)  # fmt: skip
def test_labels_that_say_nothing_are_refused(
    opened: tuple[Retriever, tiny.Counted], labels: Any, error: type[Exception]
) -> None:
    for ask in (
        lambda: opened[0].classify(picture(1), labels),
        lambda: opened[0].match([picture(1)], labels),
    ):
        with pytest.raises(error):
            ask()
    assert "vision" not in opened[1].runs


def test_match_wants_a_list_of_pictures(opened: tuple[Retriever, tiny.Counted]) -> None:
    several: tuple[Any, ...] = ([], "a.png", b"a.png", picture(1), None, 7, {"a.png"}, {"a.png": 1}, iter([picture(1)]))
    for images in several:
        with pytest.raises(ContractError, match="list of at least one picture"):
            opened[0].match(images, WORDS)


def test_threads_share_one_retriever(opened: tuple[Retriever, tiny.Counted]) -> None:
    want = [opened[0].classify(picture(seed), WORDS).scores for seed in range(4)]
    got: dict[int, NDArray[np.float32]] = {}

    def work(seed: int) -> None:
        for _ in range(20):
            got[seed] = opened[0].classify(picture(seed), WORDS).scores

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        np.testing.assert_array_equal(got[seed], want[seed])


def test_a_closed_one_says_so(tmp_path: Path) -> None:
    retriever, counted = open_dual(tmp_path)
    retriever.close()
    assert sorted(counted.closed) == ["text", "vision"]
    with pytest.raises(SessionError, match="closed"):
        retriever.embed_text("cup")


def test_a_bundle_of_another_task_is_a_typed_error(tmp_path: Path) -> None:
    dual, mono = tiny.dual(tmp_path / "dual"), tiny.mono(tmp_path / "mono")
    with pytest.raises(TaskError, match=r"task 'policy'.*'retriever'"):
        edgevlm.load_policy(dual)
    with pytest.raises(TaskError, match=r"task 'retriever'.*'policy'"):
        edgevlm.load_retriever(mono)


def _swap_driver(data: dict[str, Any]) -> None:
    data["driver"] = {"name": "dual", "args": {"vision": "vision", "text": "text", "scale": 1.0, "scores": "softmax"}}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data["driver"]["args"].update(text="vision"), "dual driver expected ids"),
        (lambda data: data["driver"]["args"].update(vision="nowhere"), "stages that do not exist"),
        (lambda data: data["driver"]["args"].update(scores="argmax"), "scores"),
        (lambda data: data.update(text=None), r"needs \['text'\]"),
        (lambda data: data.update(task="policy"), "needs a driver among"),
        (lambda data: data["preprocess"].update(front=data["preprocess"]["image"]), "needs `preprocess`"),
        (lambda data: data["preprocess"]["image"][1].update(width=6), "expected pixels"),
        (lambda data: data["text"].update(length="any"), "length"),
    ],
)
def test_parts_that_do_not_fit_are_refused_when_opening(tmp_path: Path, edit: Any, message: str) -> None:
    root = tiny.dual(tmp_path / "dual")
    tiny.rewrite(root, edit)
    with pytest.raises(BundleError, match=message):
        edgevlm.load(root)


def test_a_policy_with_the_loop_of_a_retriever_is_refused(tmp_path: Path) -> None:
    root = tiny.mono(tmp_path / "mono")
    tiny.rewrite(root, _swap_driver)
    with pytest.raises(BundleError, match="needs a driver among"):
        edgevlm.load(root)
