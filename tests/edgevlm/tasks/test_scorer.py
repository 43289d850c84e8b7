"""Claims about the scorer, on tiny bundles with real engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import paired, tiny

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.engines import Arrays, Hook, hooked
from edgevlm.errors import (
    BundleError,
    ContractError,
    InstructionError,
    NonFiniteError,
    SessionError,
    ShapeError,
    TaskError,
)
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Scorer
from edgevlm.tasks.features import MAX_BYTES, open_features

ASKED = "push the red cup"


@pytest.fixture
def counted() -> tiny.Counted:
    return tiny.Counted()


@pytest.fixture
def scorer(tmp_path: Path, counted: tiny.Counted) -> Iterator[Scorer]:
    bundle = open_bundle(paired.scorer(tmp_path / "bundle"))
    with Scorer(bundle, RuntimeOptions(intra_threads=1), engines=counted) as opened:
        yield opened


def test_load_gives_what_the_manifest_says(tmp_path: Path) -> None:
    root = paired.scorer(tmp_path / "bundle")
    with edgevlm.load(root) as loaded, edgevlm.load_scorer(root) as again:
        assert isinstance(loaded, edgevlm.Scorer) and isinstance(again, edgevlm.Scorer)
        assert loaded.labels == paired.LABELS and loaded.width == paired.FEATURES


def test_scores_share_one_among_the_labels(scorer: Scorer) -> None:
    result = scorer.score(paired.regions(), ASKED)
    assert result.labels == paired.LABELS and result.scores.shape == result.logits.shape == (3,)
    assert result.scores.dtype == result.logits.dtype == np.float32
    powers = np.exp(result.logits.astype(np.float64))
    np.testing.assert_allclose(result.scores, powers / powers.sum(), rtol=1e-6)
    assert result.best == paired.LABELS[int(np.argmax(result.scores))] and np.ptp(result.scores) > 0.01


def test_regions_and_words_matter_and_the_order_of_regions_does_not(scorer: Scorer) -> None:
    features = paired.regions(5)
    want = scorer.score(features, ASKED).logits
    np.testing.assert_allclose(scorer.score(np.asfortranarray(features[::-1]), ASKED).logits, want, atol=1e-5)
    for other in (paired.regions(5, seed=1), paired.regions(4), np.zeros_like(features)):
        assert np.abs(scorer.score(other, ASKED).logits - want).max() > 1e-2
    for text in ("lift the blue cup", "cup red the push"):
        assert np.abs(scorer.score(features, text).logits - want).max() > 1e-2


def test_one_run_for_each_call_and_a_result_that_stays(scorer: Scorer, counted: tiny.Counted) -> None:
    features = paired.regions()
    first = scorer.score(features, ASKED)
    retained = first.logits.copy()
    features[:] = 0  # the caller's own again
    second = scorer.score(features, ASKED)
    assert counted.runs == {"head": 2} == dict(scorer.stage_runs)
    np.testing.assert_array_equal(first.logits, retained)
    assert np.abs(second.logits - retained).max() > 1e-3
    assert set(scorer.last_times_ns) == {"head", "step"}


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (paired.regions().astype(np.float64), ShapeError, r"float32.*got float64 \(4, 5\)"),
        (paired.regions().astype(">f4"), ShapeError, "float32"),
        (paired.regions().tolist(), ShapeError, "expected a float32 array"),
        (None, ShapeError, "got None"),
        (paired.regions()[:, :4], ShapeError, r"5 features\), got \(4, 4\)"),
        (paired.regions()[None], ShapeError, r"got \(1, 4, 5\)"),
        (paired.regions()[:0], ShapeError, r"1 to 8 regions"),
        (paired.regions(9), ShapeError, r"1 to 8 regions, 5 features\), got \(9, 5\)"),
        (np.where(np.arange(20).reshape(4, 5) == 12, np.float32("nan"), paired.regions()), NonFiniteError, "region 2"),
        (np.full((2, 5), np.inf, np.float32), NonFiniteError, "region 0"),
    ],
    ids=["double", "swapped", "list", "none", "narrow", "batch", "empty", "many", "nan", "inf"],
)
def test_features_that_do_not_fit_are_refused_and_nothing_is_run(
    scorer: Scorer, counted: tiny.Counted, features: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        scorer.score(features, ASKED)
    assert counted.runs == {}
    assert scorer.score(paired.regions(), ASKED).best in paired.LABELS


@pytest.mark.parametrize("text", ["", "  ", 7, None, "\ud800", "the cup " * 9], ids=repr)
def test_texts_that_say_nothing_or_too_much_are_refused(scorer: Scorer, text: Any) -> None:
    with pytest.raises(InstructionError):
        scorer.score(paired.regions(), text)


class _Overflowing(Hook):
    """The numbers of every stage get too large."""

    def after(self, stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        return {"scores": np.float32([[1.0, np.nan, 2.0]])}


def test_a_model_that_overflows_says_so(tmp_path: Path) -> None:
    bundle = open_bundle(paired.scorer(tmp_path / "bundle"))
    with (
        Scorer(bundle, RuntimeOptions(), engines=hooked(_Overflowing())) as scorer,
        pytest.raises(NonFiniteError, match=r"stage 'head'.*try an fp32 bundle"),
    ):
        scorer.score(paired.regions(), ASKED)


def test_a_closed_one_says_so(tmp_path: Path) -> None:
    scorer = edgevlm.load_scorer(paired.scorer(tmp_path / "bundle"))
    scorer.close()
    with pytest.raises(SessionError, match=r"scorer: .*closed"):
        scorer.score(paired.regions(), ASKED)


def test_a_bundle_of_another_task_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"task 'scorer'.*'retriever'"):
        edgevlm.load_scorer(paired.cross(tmp_path / "cross"))
    with pytest.raises(TaskError, match=r"task 'retriever'.*'scorer'"):
        edgevlm.load_retriever(paired.scorer(tmp_path / "scorer"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.update(labels=["yes", "no"]), "expected scores of the 2 labels, it has 3 columns"),
        (lambda data: data.update(labels=None), "needs .'labels', 'text'."),
        (lambda data: data.update(labels=[]), "labels"),
        (lambda data: data["driver"]["args"].update(scores="match"), "scores of 2 columns|by softmax"),
        (lambda data: data["driver"]["args"].update(head="nowhere"), "stages that do not exist"),
        (lambda data: data["stages"]["head"]["inputs"][1].update(kind="regions"), r"ids and features \(1, R, V\)"),
        (lambda data: data["stages"]["head"]["outputs"][0].update(kind="logits"), "kind 'scores'"),
        (lambda data: data.update(preprocess={"image": []}), "needs `preprocess`"),
        (lambda data: data["text"].update(max_tokens=0), "max_tokens"),
    ],
)
def test_parts_that_do_not_fit_are_refused_when_opening(tmp_path: Path, edit: Any, message: str) -> None:
    root = paired.scorer(tmp_path / "bundle")
    tiny.rewrite(root, edit)
    with pytest.raises(BundleError, match=message):
        edgevlm.load(root)


def _objects(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)


def _archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


def _cut(path: Path) -> None:
    np.save(path, paired.regions())
    path.write_bytes(path.read_bytes()[:-9])


def _huge(path: Path) -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000), }".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 64)


def _header(fields: str, data: bytes = b"\0" * 64) -> Callable[[Path], object]:
    header = fields.ljust(117).encode() + b"\n"
    return lambda path: path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data)


def _fields(descr: object = "<f4", shape: object = (4, 4), order: object = False) -> str:
    return repr({"descr": descr, "fortran_order": order, "shape": shape})


BROKEN: dict[str, Callable[[Path], object]] = {
    "zip": lambda path: path.write_bytes(b"PK\x03\x04"),
    "pickle": lambda path: path.write_bytes(b"\x80\x04N."),
    "magic-alone": lambda path: path.write_bytes(b"\x93NUMPY"),
    "version-9": lambda path: path.write_bytes(b"\x93NUMPY\x09\x00\x02\x00{}" + b"\0" * 64),
    "half-a-header": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\xff\xff{"),
    "open-bracket": _header("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4"),
    "indented": _header("{}\n  3\n 4"),
    "nested": _header("(" * 116),
    "unhashable": _header("{[]: 1}"),
    "code": _header("__import__('os').getcwd()"),
    "not-a-dict": _header("7"),
    "no-shape": _header("{'descr': '<f4', 'fortran_order': False}"),
    "too-much": _header("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4), 'more': 1}"),
    "shape-of-texts": _header(_fields(shape=("4", 4))),
    "shape-of-a-list": _header(_fields(shape=[4, 4])),
    "negative": _header(_fields(shape=(-4, -4))),
    "beyond-every-integer": _header(_fields(shape=(10**40, 4))),
    "nothing-times-much": _header(_fields(shape=(0, 10**30)), b""),
    "true-rows": _header(_fields(shape=(True, 16))),
    "order": _header(_fields(order="C")),
    "no-type": _header(_fields(descr="<q9")),
    "fields": _header(_fields(descr=[("a", "<f4")])),
    "object": _header(_fields(descr="|O")),
    "time": _header(_fields(descr="<M8[s]")),
    "type-of-a-number": _header(_fields(descr=4)),
    "bytes-left": _header(_fields(shape=(4, 3))),
    "null-bytes": _header("\0" * 20),
    "no-text": lambda path: path.write_bytes(b"\x93NUMPY\x03\x00\x02\x00\x00\x00\xff\xfe" + b"\0" * 64),
    "larger-than-any": lambda path: _grow(path, MAX_BYTES + 1),
}


def _grow(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_file_is_a_typed_error(broken: str, tmp_path: Path) -> None:
    BROKEN[broken](tmp_path / "f.npy")
    with pytest.raises(ContractError, match=r"f\.npy: expected a \.npy file"):
        open_features(tmp_path / "f.npy")


def test_cut_and_changed_bytes_are_typed_errors_or_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", paired.regions())
    complete, path = (tmp_path / "whole.npy").read_bytes(), tmp_path / "f.npy"
    random, refused = np.random.default_rng(0), 0
    for _ in range(600):
        data = bytearray(complete)
        for place in random.integers(0, 128, random.integers(1, 4)):
            data[place] = random.integers(256)
        path.write_bytes(data if random.random() < 0.8 else data[: random.integers(len(data))])
        try:
            assert open_features(path).size * 4 <= len(complete) * 4
        except ContractError:
            refused += 1
    assert refused > 300


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_version_and_order_is_read(version: tuple[int, int], order: Any, tmp_path: Path) -> None:
    want = np.asarray(paired.regions(), order=order)
    with (tmp_path / "f.npy").open("wb") as file:
        np.lib.format.write_array(file, want, version=version)
    result = open_features(str(tmp_path / "f.npy"))
    np.testing.assert_array_equal(result, want)
    result[:] = 0  # it is the caller's own


@pytest.mark.parametrize(
    "write",
    [_objects, _archive, _cut, _huge, lambda path: path.write_text("no array"), lambda path: path.write_bytes(b""),
     lambda path: path.mkdir(), lambda path: None],
    ids=["objects", "archive", "cut", "huge", "text", "empty", "folder", "missing"],
)  # fmt: skip
def test_files_that_hold_no_features_are_refused(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "f.npy")
    with pytest.raises(ContractError, match=r"f\.npy: expected a \.npy file"):
        open_features(tmp_path / "f.npy")


def test_a_file_of_features_is_read_as_it_was_written(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", paired.regions())
    np.testing.assert_array_equal(open_features(tmp_path / "f.npy"), paired.regions())
