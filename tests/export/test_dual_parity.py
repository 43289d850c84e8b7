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
from numpy.typing import NDArray
from support import hub
from transformers.image_utils import load_image

import edgevlm
from edgevlm_export.fidelity.retriever import shuffle_patches
from edgevlm_export.report import ExportReport

Exported = tuple[Path, ExportReport]
TOLERANCE = 1e-4  # of the scale of what is compared
CONTROL = 100  # a wrong input must move what is compared at least this many tolerances
TEXTS = ["a photo of a cat", "a red cup on a table", "two people shaking hands", "ein Foto von einem Hund"]
NAMES = ("chelsea.png", "coffee.png", "rocket.jpg", "china.jpg", "astronaut.png")  # shrunk alike by every Pillow
CLASSES = {
    "clip": ("CLIPModel", "CLIPImageProcessorPil", "CLIPTokenizer", {"padding": True}),
    "siglip": ("SiglipModel", "SiglipImageProcessorPil", "SiglipTokenizer", {"padding": "max_length"}),
}


@dataclass(frozen=True)
class Native:
    """The upstream model and what reads its inputs."""

    model: Any
    images: Any
    tokenizer: Any
    padding: dict[str, Any]

    def inputs(self, paths: list[Path], texts: list[str]) -> dict[str, Any]:
        pictures = self.images(images=[load_image(str(path)) for path in paths], return_tensors="pt")
        return {**pictures, **self.tokenizer(texts, return_tensors="pt", **self.padding)}

    def __call__(self, **inputs: Any) -> Any:
        with torch.no_grad():
            return self.model(**inputs)


def open_native(family: str, source: Path) -> Native:
    names = CLASSES[family]
    parts = [getattr(transformers, name).from_pretrained(source) for name in names[:3]]
    return Native(parts[0].eval(), parts[1], parts[2], names[3])


@pytest.fixture(scope="module")
def native(family: str, hub_source: Path) -> Native:
    return open_native(family, hub_source)


@pytest.fixture(scope="module")
def paths() -> list[Path]:
    known = {path.name: path for path in hub.photographs()}
    return [known[name] for name in NAMES]


def gap(got: Any, want: Any) -> float:
    """The largest error, relative to the scale of what was wanted."""
    expected = np.asarray(want)
    return float(np.abs(np.asarray(got) - expected).max() / np.abs(expected).max())


def test_logits_embeddings_and_probabilities_are_upstreams(
    family: str, hub_fp32: Exported, native: Native, paths: list[Path]
) -> None:
    want = native(**native.inputs(paths, TEXTS))
    with edgevlm.load_retriever(hub_fp32[0]) as retriever:
        match = retriever.match(paths, TEXTS)
        assert gap(match.logits, want.logits_per_image) < TOLERANCE
        assert gap([retriever.embed_image(path) for path in paths], want.image_embeds) < TOLERANCE
        assert gap([retriever.embed_text(text) for text in TEXTS], want.text_embeds) < TOLERANCE
        logits = want.logits_per_image
        shares = logits.softmax(dim=1) if family == "clip" else logits.sigmoid()
        np.testing.assert_allclose(match.scores, shares, atol=TOLERANCE)
        single = retriever.classify(np.asarray(load_image(str(paths[0]))), TEXTS)
        np.testing.assert_allclose(single.scores, shares[0], atol=TOLERANCE)
        assert single.best == TEXTS[int(shares[0].argmax())]


def _shifted(table: torch.nn.Embedding) -> None:
    table.weight.copy_(torch.roll(table.weight, 1, 0))


CONTROLS: dict[str, Callable[[Native, dict[str, Any]], dict[str, Any]]] = {
    "other-picture": lambda native, inputs: {"pixel_values": inputs["pixel_values"].roll(1, 0)},
    "shuffled-tokens": lambda native, inputs: {"input_ids": _shuffled(inputs["input_ids"])},
    "other-texts": lambda native, inputs: {"input_ids": inputs["input_ids"].roll(1, 0)},
}


def _shuffled(ids: Any) -> Any:
    """The first words in another order; begin, end and filling stay where they are."""
    changed = ids.clone()
    changed[:, 1:4] = ids[:, [3, 1, 2]]
    return changed


@pytest.mark.parametrize("control", CONTROLS)
def test_a_wrong_input_moves_the_logits_by_a_hundred_tolerances(
    control: str, native: Native, paths: list[Path]
) -> None:
    inputs = native.inputs(paths, TEXTS)
    want = native(**inputs).logits_per_image
    wrong = native(**{**inputs, **CONTROLS[control](native, inputs)}).logits_per_image
    assert gap(wrong, want) > CONTROL * TOLERANCE


def test_shuffled_patches_move_the_embedding(hub_fp32: Exported, paths: list[Path]) -> None:
    with edgevlm.load_retriever(hub_fp32[0]) as retriever:
        for path in paths:
            image = np.asarray(load_image(str(path)))
            moved = gap(retriever.embed_image(shuffle_patches(image)), retriever.embed_image(image))
            assert moved > CONTROL * TOLERANCE, path.name


@pytest.mark.parametrize("tower", ["vision_model", "text_model"])
def test_shifted_positions_move_the_logits(family: str, tower: str, hub_source: Path, paths: list[Path]) -> None:
    native = open_native(family, hub_source)
    inputs = native.inputs(paths, TEXTS)
    want = native(**inputs).logits_per_image
    with torch.no_grad():
        _shifted(getattr(native.model, tower).embeddings.position_embedding)
    assert gap(native(**inputs).logits_per_image, want) > CONTROL * TOLERANCE


def test_the_export_measured_the_same_and_ran_its_controls(hub_fp32: Exported) -> None:
    fidelity = hub_fp32[1].fidelity
    (row,) = fidelity["retrieval"]
    assert row["logit_relative_error"] < TOLERANCE and row["embedding_max_abs_error"] < TOLERANCE
    assert row["same_best_text"] == 1.0 and fidelity["data"]["kind"] == "synthetic"
    assert {control["control"] for control in fidelity["controls"]} == {
        *("other-picture", "shuffled-patches", "other-text", "reversed-words")
    }
    assert all(control["factor"] >= CONTROL for control in fidelity["controls"])


def test_a_text_longer_than_the_model_is_refused(hub_fp32: Exported) -> None:
    with (
        edgevlm.load_retriever(hub_fp32[0]) as retriever,
        pytest.raises(edgevlm.errors.InstructionError, match="use fewer words"),
    ):
        retriever.embed_text("a cat and a dog " * 20)


def test_a_mask_that_the_tokenizer_asks_for_reaches_the_model(
    tmp_path: Path, paths: list[Path], traced: Callable[..., ExportReport]
) -> None:
    source = hub.siglip(tmp_path / "checkpoint", masked=True)
    traced(source, tmp_path / "bundle")
    native = open_native("siglip", source)
    inputs = native.inputs(paths[:1], TEXTS)
    assert "attention_mask" in inputs
    want: NDArray[Any] = native(**inputs).text_embeds.numpy()
    with edgevlm.load_retriever(tmp_path / "bundle") as retriever:
        assert gap([retriever.embed_text(text) for text in TEXTS], want) < TOLERANCE
    del inputs["attention_mask"]
    assert gap(native(**inputs).text_embeds, want) > CONTROL * TOLERANCE
