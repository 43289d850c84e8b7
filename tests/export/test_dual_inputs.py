"""Pictures and texts reach the model as upstream's own processors prepare them, byte for byte and id for id."""

from __future__ import annotations

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
from edgevlm.manifest.schema import TextSpec
from edgevlm.preprocess import PicturePreprocessor, native_available
from edgevlm.text import TextEncoder
from edgevlm_export.families import build
from edgevlm_export.families.common.picture_ops import picture_ops

PHOTOGRAPHS = hub.photographs()
PROCESSORS = {
    "clip": lambda: transformers.CLIPImageProcessorPil(),
    "siglip": lambda: transformers.SiglipImageProcessorPil(),
}


@pytest.fixture
def horizontal_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow as it was up to version 12, whatever is installed: docs/decisions/0002."""
    full = Image.Image.resize

    def resize(self: Any, size: tuple[int, int], resample: Any = None, **more: Any) -> Any:
        return full(full(self, (size[0], self.height), resample), size, resample)

    monkeypatch.setattr(Image.Image, "resize", resize)


def both(processor: Any, image: NDArray[np.uint8], picture: Any) -> None:
    """Our pixels, native and in NumPy, are upstream's."""
    want = processor(images=picture, return_tensors="np")["pixel_values"]
    ops = picture_ops(Path("default"), processor, 224)
    for native in (True, False) if native_available() else (False,):
        got = PicturePreprocessor(ops, native)(image)
        np.testing.assert_array_equal(got, want)


def test_there_are_enough_photographs_of_odd_sizes_and_modes() -> None:
    observed = []
    for path in PHOTOGRAPHS:
        with Image.open(path) as image:
            observed.append((image.size, image.mode))
    assert len(observed) >= 20 and len({size for size, _ in observed}) >= 12
    assert {"RGB", "L", "RGBA"} <= {mode for _, mode in observed}


@pytest.mark.usefixtures("horizontal_first")
@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.name)
def test_a_photograph_is_prepared_as_upstream_does(kind: str, path: Path) -> None:
    both(PROCESSORS[kind](), open_photo(path), load_image(str(path)))


@pytest.mark.parametrize("kind", PROCESSORS)
def test_most_photographs_are_equal_without_pinning_pillows_order(kind: str) -> None:
    processor = PROCESSORS[kind]()
    prepare = PicturePreprocessor(picture_ops(Path("default"), processor, 224))
    equal = [
        np.array_equal(prepare(open_photo(path)), processor(load_image(str(path)), return_tensors="np")["pixel_values"])
        for path in PHOTOGRAPHS
    ]
    assert sum(equal) >= 0.7 * len(equal)


@pytest.mark.usefixtures("horizontal_first")
@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 7), (5, 1), (3, 2000), (1500, 2), (223, 224), (224, 224), (225, 449), (31, 37)]
)
def test_odd_sizes_are_prepared_as_upstream_does(kind: str, size: tuple[int, int]) -> None:
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)
    both(PROCESSORS[kind](), image, Image.fromarray(image))


def test_another_filter_or_mean_would_show() -> None:
    image = open_photo(PHOTOGRAPHS[0])
    plain = PicturePreprocessor(picture_ops(Path("default"), transformers.CLIPImageProcessorPil(), 224))(image)
    for more in ({"resample": 2}, {"image_mean": [0.5, 0.5, 0.5]}, {"rescale_factor": 1 / 256}):
        other = transformers.CLIPImageProcessorPil(**more)
        changed = PicturePreprocessor(picture_ops(Path("default"), other, 224))(image)
        assert not np.allclose(changed, plain, atol=1e-3), more
        if "resample" not in more:
            np.testing.assert_array_equal(changed, other(image, return_tensors="np")["pixel_values"])


def test_two_hundred_prompts_become_the_ids_of_upstream(family: str, hub_source: Path, tmp_path: Path) -> None:
    graph = build(hub_source)
    path = graph.tokenizer
    if isinstance(path, str):
        (tmp_path / "tokenizer.json").write_text(path, encoding="utf-8")
        path = tmp_path / "tokenizer.json"
    encoder = TextEncoder(path, TextSpec(max_tokens=256, length="own"))
    name = {"clip": "CLIPTokenizer", "siglip": "SiglipTokenizer"}[family]
    upstream = getattr(transformers, name).from_pretrained(hub_source, model_max_length=256)
    assert len(set(PROMPTS)) == 200
    wrong = [
        (prompt, got, want)
        for prompt in PROMPTS
        if (got := encoder.encode(prompt)[0][0].tolist()) != (want := upstream(prompt)["input_ids"])
    ]
    assert not wrong, wrong[:5]


def test_filled_up_texts_have_upstreams_ids_and_mask(tmp_path: Path) -> None:
    graph = build(hub.siglip(tmp_path / "checkpoint", masked=True))
    assert isinstance(graph.tokenizer, str)
    (tmp_path / "tokenizer.json").write_text(graph.tokenizer, encoding="utf-8")
    encoder = TextEncoder(tmp_path / "tokenizer.json", graph.text)  # type: ignore[attr-defined]
    upstream = transformers.SiglipTokenizer.from_pretrained(tmp_path / "checkpoint")
    for prompt in ("a cat", "A photo of a dog, twice!"):
        want = upstream(prompt, padding="max_length")
        ids, mask = encoder.encode(prompt)
        assert ids[0].tolist() == want["input_ids"] and mask[0].tolist() == want["attention_mask"]
