"""A composed retriever of pairs, through the runtime, beside native forwards of BLIP with its own processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from support import captioners, hub
from support.prompts import PROMPTS
from transformers.image_utils import load_image

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.errors import FidelityError
from edgevlm.manifest.schema import RetrieverManifest, TextSpec
from edgevlm.text import TextEncoder
from edgevlm_export.families import build
from edgevlm_export.fidelity.metrics import centred_cosine
from edgevlm_export.fidelity.retriever import PAIR_LIMIT, shuffle_patches
from edgevlm_export.fidelity.verify import verify
from edgevlm_export.report import ExportReport

Exported = tuple[Path, ExportReport]
Bundles = Callable[[str, str], Exported]
TOLERANCE = 1e-4  # of the scale of what is compared
CONTROL = 100  # a wrong input must move what is compared at least this many tolerances
TEXTS = ["a photo of a cat", "a red cup on a table", "two people shaking hands", "ein Foto von einem Hund"]
NAMES = ("chelsea.png", "coffee.png", "rocket.jpg", "china.jpg", "astronaut.png")  # shrunk alike by every Pillow


@dataclass(frozen=True)
class Native:
    """The upstream model and what reads its inputs."""

    model: Any
    images: Any
    tokenizer: Any

    def inputs(self, path: Path, text: str) -> dict[str, Any]:
        pixels = self.images(images=[load_image(str(path))], return_tensors="pt")
        return {**pixels, **self.tokenizer([text], return_token_type_ids=False, return_tensors="pt")}

    def __call__(self, **inputs: Any) -> Any:
        with torch.no_grad():
            return self.model(**inputs)

    def logit(self, **inputs: Any) -> float:
        no, yes = self(**inputs).itm_score[0].tolist()
        return float(yes - no)


@pytest.fixture(scope="module")
def exported(pair_bundle: Bundles) -> Exported:
    return pair_bundle("blip_matching", "fp32")


def open_native(exported: Exported) -> Native:
    source = exported[0].parent / "checkpoint"
    return Native(
        transformers.BlipForImageTextRetrieval.from_pretrained(source).eval(),
        transformers.BlipImageProcessorPil.from_pretrained(source),
        transformers.AutoTokenizer.from_pretrained(source),
    )


@pytest.fixture(scope="module")
def native(exported: Exported) -> Native:
    return open_native(exported)


@pytest.fixture(scope="module")
def paths() -> list[Path]:
    known = {path.name: path for path in hub.photographs()}
    return [known[name] for name in NAMES]


def gap(got: Any, want: Any) -> float:
    """The largest error, relative to the scale of what was wanted."""
    expected = np.asarray(want)
    return float(np.abs(np.asarray(got) - expected).max() / np.abs(expected).max())


def test_every_pair_is_scored_as_upstream_does(exported: Exported, native: Native, paths: list[Path]) -> None:
    scored = [[native(**native.inputs(path, text)).itm_score[0] for text in TEXTS] for path in paths]
    want = np.array([[float(one[1] - one[0]) for one in row] for row in scored])
    shares = np.array([[float(one.softmax(-1)[1]) for one in row] for row in scored])
    with edgevlm.load_retriever(exported[0]) as retriever:
        match = retriever.match(paths, TEXTS)
        assert gap(match.logits, want) < TOLERANCE
        np.testing.assert_allclose(match.scores, shares, atol=TOLERANCE)
        assert dict(retriever.stage_runs) == {"vision": 5, "head": 20}  # once for each picture, and each pair
        result = retriever.classify(np.asarray(load_image(str(paths[-1]))), TEXTS)
        np.testing.assert_allclose(result.scores, shares[-1], atol=TOLERANCE)
        assert result.best == TEXTS[int(shares[-1].argmax())]
        assert dict(retriever.stage_runs) == {"vision": 5, "head": 24}  # the same picture, not a file this time
    assert np.ptp(want) > 0.1 and len({tuple(row.argsort()) for row in want}) > 1  # pictures rank the texts otherwise


def test_embeddings_have_upstreams_cosines(exported: Exported, native: Native, paths: list[Path]) -> None:
    want = np.array(
        [[float(native(**native.inputs(p, text), use_itm_head=False).itm_score) for text in TEXTS] for p in paths]
    )
    with edgevlm.load_retriever(exported[0]) as retriever:
        observed = np.stack([retriever.embed_image(path) for path in paths])
        texts = np.stack([retriever.embed_text(text) for text in TEXTS])
    np.testing.assert_allclose(np.linalg.norm(observed, axis=1), 1, atol=1e-6)
    assert gap(observed @ texts.T, want) < TOLERANCE and np.ptp(want) > 0.01


def _shuffled(ids: Any) -> Any:
    """The first words in another order; begin and end stay where they are."""
    changed = ids.clone()
    changed[:, 1:4] = ids[:, [3, 1, 2]]
    return changed


def _hidden(inputs: dict[str, Any]) -> dict[str, Any]:
    mask = inputs["attention_mask"].clone()
    mask[:, 2:6] = 0
    return {"attention_mask": mask}


CONTROLS: dict[str, Callable[[Native, dict[str, Any], Path], dict[str, Any]]] = {
    "other-picture": lambda native, inputs, other: {
        "pixel_values": native.inputs(other, TEXTS[0])["pixel_values"],
    },
    "shuffled-words": lambda native, inputs, other: {"input_ids": _shuffled(inputs["input_ids"])},
    "wrong-mask": lambda native, inputs, other: _hidden(inputs),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_wrong_input_moves_the_logits_by_a_hundred_tolerances(
    control: str, native: Native, paths: list[Path]
) -> None:
    right, wrong = [], []
    for path, other in zip(paths, [*paths[1:], paths[0]], strict=True):
        inputs = native.inputs(path, TEXTS[1])
        right.append(native.logit(**inputs))
        wrong.append(native.logit(**{**inputs, **CONTROLS[control](native, inputs, other)}))
    assert gap(wrong, right) > CONTROL * TOLERANCE


def test_shuffled_patches_move_logits_and_embeddings(exported: Exported, paths: list[Path]) -> None:
    """Of the pixels: cross attention itself does not care for the order of what it looks at."""
    with edgevlm.load_retriever(exported[0]) as retriever:
        scale = np.abs(retriever.match(paths, TEXTS).logits).max()
        for path in paths:
            image = np.asarray(load_image(str(path)))
            images = [image, shuffle_patches(image)]
            moved = np.abs(np.diff(retriever.match(images, TEXTS).logits, axis=0)).max()
            assert moved > CONTROL * TOLERANCE * scale, path.name
            assert gap(*(retriever.embed_image(one) for one in images)) > CONTROL * TOLERANCE, path.name


@pytest.mark.parametrize("part", ["vision_model", "text_encoder"])
def test_shifted_positions_move_the_logits(part: str, exported: Exported, paths: list[Path]) -> None:
    native = open_native(exported)
    inputs = native.inputs(paths[0], TEXTS[1])
    want = native.logit(**inputs)
    tables = getattr(native.model, part).embeddings
    table = tables.position_embedding if part == "vision_model" else tables.position_embeddings.weight
    with torch.no_grad():
        table.copy_(torch.roll(table, 1, -2))
    assert abs(native.logit(**inputs) - want) > CONTROL * TOLERANCE * abs(want)


def test_the_export_measured_the_same_and_ran_its_controls(exported: Exported) -> None:
    fidelity = exported[1].fidelity
    (row,) = fidelity["retrieval"]
    assert row["logit_relative_error"] < TOLERANCE and row["embedding_max_abs_error"] < TOLERANCE
    assert row["same_best_text"] == 1.0
    names = {control["control"] for control in fidelity["controls"]}
    whats = {"other-picture", "shuffled-patches", "other-text", "reversed-words"}
    assert names == whats | {f"{what} of a pair" for what in whats}
    assert all(control["factor"] >= CONTROL for control in fidelity["controls"])


@pytest.mark.slow
def test_int8_keeps_its_stages_or_says_why_not(pair_bundle: Bundles) -> None:
    root, report = pair_bundle("blip_matching", "int8")
    stages = {stage.stage: stage for stage in report.stages}
    assert set(stages) == {"vision", "text", "head"} and stages["vision"].precision == "int8"
    for stage in stages.values():
        assert stage.precision == "int8" or "worst cosine" in stage.reason
    for row in report.fidelity["retrieval"]:
        assert row["image_cosine_min"] > 0.99 and row["text_cosine_min"] > 0.99 and row["same_best_text"] >= 0.8
        assert row["logit_centred_cosine"] > PAIR_LIMIT
    assert all(control["passed"] for control in report.fidelity["controls"])
    assert set(report.fidelity["forms_bit_equal"]["stages"]) >= {"vision", "head"}  # no text alone where pairs are read
    full = pair_bundle("blip_matching", "fp32")[0]
    with edgevlm.load_retriever(root) as quick, edgevlm.load_retriever(full) as exact:
        got, want = (one.match(hub.photographs()[:6], TEXTS).logits for one in (quick, exact))
    for axis in (0, 1):
        assert PAIR_LIMIT < centred_cosine(got, want, axis) < 1 - 1e-7  # near, and not the same


@pytest.mark.slow
def test_pairs_that_an_embedding_does_not_tell_are_judged(pair_bundle: Bundles, tmp_path: Path) -> None:
    """A head that tells other things: the embeddings are equal."""

    def other(model: Any) -> None:
        with torch.no_grad():
            model.itm_head.weight.copy_(model.itm_head.weight[:, torch.randperm(64, generator=torch.manual_seed(0))])

    source = captioners.blip_matching(tmp_path / "other", edit=other)
    with pytest.raises(FidelityError, match=r"what varies in the logits of pairs to keep a cosine of 0\.98"):
        verify(pair_bundle("blip_matching", "int8")[0], against=source)


@pytest.mark.slow
def test_a_head_with_a_large_bias_keeps_what_varies(
    traced: Callable[..., ExportReport], photos: Path, tmp_path: Path
) -> None:
    def biased(model: Any) -> None:
        model.itm_head.bias.data = torch.tensor([5.0, -5.0])

    source = captioners.blip_matching(tmp_path / "checkpoint", edit=biased)
    report = traced(source, tmp_path / "bundle", precision="int8", calibration=photos)
    assert all(row["logit_centred_cosine"] > PAIR_LIMIT for row in report.fidelity["retrieval"])


def test_two_hundred_prompts_become_the_ids_of_upstream(exported: Exported, native: Native) -> None:
    encoder = TextEncoder(exported[0] / "tokenizer.json", TextSpec(max_tokens=512, length="own"))
    assert len(set(PROMPTS)) == 200
    wrong = [
        (prompt, got, want)
        for prompt in PROMPTS
        if (got := encoder.encode(prompt)[0][0].tolist()) != (want := native.tokenizer(prompt)["input_ids"])
    ]
    assert not wrong, wrong[:5]


def test_a_text_longer_than_the_model_is_refused(exported: Exported) -> None:
    longest = open_bundle(exported[0]).manifest.require(RetrieverManifest).text.max_tokens
    with (
        edgevlm.load_retriever(exported[0]) as retriever,
        pytest.raises(edgevlm.errors.InstructionError, match=rf"at most {longest} tokens"),
    ):
        retriever.match([np.zeros((9, 9, 3), np.uint8)], ["a cat and a dog " * 60])


def test_one_native_forward_of_all_texts_is_what_judges(exported: Exported, native: Native, paths: list[Path]) -> None:
    graph = build(exported[0].parent / "checkpoint")
    pixels: NDArray[np.float32] = native.images(images=load_image(str(paths[0])), return_tensors="np")["pixel_values"]
    answer = graph.reference(pixels, TEXTS)  # type: ignore[attr-defined]
    want = [native.logit(**native.inputs(paths[0], text)) for text in TEXTS]
    assert gap(answer.logits[0], want) < TOLERANCE
