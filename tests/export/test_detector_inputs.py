"""Pictures and labels reach a detector as upstream's own processors prepare them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from numpy.typing import NDArray
from PIL import Image
from support import hub
from support.prompts import PROMPTS
from transformers.image_utils import load_image

from edgevlm.images.files import open_photo
from edgevlm.manifest.image_ops import ImageOp, Normalize, Resize, SmoothToSquare
from edgevlm.manifest.schema import TextSpec
from edgevlm.preprocess import PicturePreprocessor, native_available
from edgevlm.text import TextEncoder
from edgevlm_export.families import build
from edgevlm_export.families.common.picture_ops import picture_ops

PHOTOGRAPHS = hub.photographs()
TOLERANCE = 1e-5  # of normalized pixels: float32, in another order of additions
SIDE = 384  # smaller than some photographs, larger than others
ODD = [(1, 1), (1, 7), (5, 1), (3, 2000), (1500, 2), (SIDE, SIDE), (SIDE - 1, SIDE), (SIDE + 1, 700), (31, 37)]


def padded(**more: Any) -> Any:
    """Upstream's image processor that pads, smooths and zooms."""
    return transformers.Owlv2ImageProcessorPil(**{"size": {"height": SIDE, "width": SIDE}, **more})


def operations(processor: Any, size: int = SIDE) -> tuple[ImageOp, ...]:
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    return SmoothToSquare(size=size), Normalize(scale=1.0, mean=mean, std=std, rounding="each")


def upstream(processor: Any, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = processor(image, return_tensors="np", input_data_format="channels_last")[
        "pixel_values"
    ]
    return result


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.name)
def test_a_photograph_is_padded_and_smoothed_as_upstream_does(path: Path) -> None:
    processor = padded()
    got = PicturePreprocessor(operations(processor))(open_photo(path))
    want = upstream(processor, np.asarray(load_image(str(path))))
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", ODD)
def test_odd_sizes_are_padded_and_smoothed_as_upstream_does(size: tuple[int, int]) -> None:
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)
    processor = padded()
    got = PicturePreprocessor(operations(processor))(image)
    np.testing.assert_allclose(got, upstream(processor, image), rtol=0, atol=TOLERANCE)


def test_the_size_that_trained_models_have_is_prepared_as_upstream_does() -> None:
    processor = transformers.Owlv2ImageProcessorPil()
    path = next(path for path in PHOTOGRAPHS if path.name == "retina.jpg")
    got = PicturePreprocessor(operations(processor, 960))(open_photo(path))
    np.testing.assert_allclose(got, upstream(processor, open_photo(path)), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("other", ["no-smoothing", "stretched", "another-mean"])
def test_another_way_of_resizing_would_show(other: str) -> None:
    image = open_photo(next(path for path in PHOTOGRAPHS if path.name == "hubble_deep_field.jpg"))
    processor = padded()
    want = upstream(processor, image)
    if other == "stretched":
        plain = Normalize(mean=tuple(processor.image_mean), std=tuple(processor.image_std))
        wrong = PicturePreprocessor((Resize(height=SIDE, width=SIDE), plain))(image)
    else:
        more = {"resample": 0} if other == "no-smoothing" else {"image_mean": [0.5, 0.5, 0.5]}
        wrong = upstream(padded(**more), image)
    assert np.abs(wrong - want).max() > 1000 * TOLERANCE


@pytest.fixture
def horizontal_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow as it was up to version 12, whatever is installed: docs/decisions/0002."""
    full = Image.Image.resize

    def resize(self: Any, size: tuple[int, int], resample: Any = None, **more: Any) -> Any:
        return full(full(self, (size[0], self.height), resample), size, resample)

    monkeypatch.setattr(Image.Image, "resize", resize)


@pytest.mark.usefixtures("horizontal_first")
@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.name)
def test_a_photograph_is_stretched_as_upstream_does_to_the_byte(path: Path) -> None:
    processor = transformers.OwlViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    want = processor(load_image(str(path)), return_tensors="np")["pixel_values"]
    ops = picture_ops(Path("default"), processor, SIDE)
    for native in (True, False) if native_available() else (False,):
        np.testing.assert_array_equal(PicturePreprocessor(ops, native)(open_photo(path)), want)


def test_two_hundred_labels_become_the_ids_of_upstream(owl_source: Path, tmp_path: Path) -> None:
    upstreams = transformers.CLIPTokenizer.from_pretrained(owl_source, model_max_length=256)
    bare = Path(shutil.copytree(owl_source, tmp_path / "bare"))  # as older checkpoints are: no tokenizer.json
    model = json.loads((bare / "tokenizer.json").read_text())["model"]
    (bare / "tokenizer.json").unlink()
    ends = {text: upstreams.convert_tokens_to_ids(text) for text in (hub.BEGIN, hub.END)}
    (bare / "vocab.json").write_text(json.dumps({**model["vocab"], **ends}))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (bare / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    assert len(set(PROMPTS)) == 200
    for source in (owl_source, bare):
        created = build(source).tokenizer
        if isinstance(created, str):
            (tmp_path / "tokenizer.json").write_text(created, encoding="utf-8")
            created = tmp_path / "tokenizer.json"
        assert created is not None
        encoder = TextEncoder(created, TextSpec(max_tokens=256, length="own"))
        wrong = [
            (prompt, got, want)
            for prompt in PROMPTS
            if (got := encoder.encode(prompt)[0][0].tolist()) != (want := upstreams(prompt)["input_ids"])
        ]
        assert not wrong, (source, wrong[:5])
