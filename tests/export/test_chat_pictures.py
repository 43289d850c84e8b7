"""Pictures for a chat reach the model as upstream's own processors prepare them, byte for byte and tile for tile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from support import hub
from transformers.image_utils import load_image

from edgevlm.errors import FamilyError
from edgevlm.images.files import open_photo
from edgevlm.manifest.image_ops import Normalize, PadToSquare
from edgevlm.preprocess import PicturePreprocessor, native_available
from edgevlm_export.families.common.picture_ops import picture_ops

HERE = Path("checkpoint")
PHOTOGRAPHS = hub.photographs()
SMALL = {"size": {"longest_edge": 256}, "max_image_size": {"longest_edge": 64}}
# name -> (upstream's processor, the side of what it makes)
PROCESSORS: dict[str, tuple[Any, int]] = {
    "tiles": (transformers.SmolVLMImageProcessorPil(**SMALL), 64),
    "tiles-elsewhere": (transformers.Idefics3ImageProcessorPil(**SMALL, resample=3), 64),
    "not-cut": (transformers.SmolVLMImageProcessorPil(**SMALL, do_image_splitting=False), 64),
    "crop": (
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        336,
    ),
    "square": (transformers.LlavaImageProcessorPil(do_pad=True), 224),
    "plain": (transformers.SiglipImageProcessorPil(), 224),
    "beside": (transformers.BlipImageProcessorPil(), 384),
}


@pytest.fixture
def horizontal_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow as it was up to version 12, whatever is installed: docs/decisions/0002."""
    full = Image.Image.resize

    def resize(self: Any, size: tuple[int, int], resample: Any = None, **more: Any) -> Any:
        return full(full(self, (size[0], self.height), resample), size, resample)

    monkeypatch.setattr(Image.Image, "resize", resize)


def upstream(processor: Any, picture: Any) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Its pixels (N, 3, S, S) and, where it cuts pictures, its (rows, columns)."""
    if not hasattr(processor, "max_image_size"):
        return processor(images=picture, return_tensors="np")["pixel_values"], (0, 0)
    out = processor(images=picture, return_tensors="np", return_row_col_info=True)
    return out["pixel_values"][0], (out["rows"][0][0], out["cols"][0][0])


def both(kind: str, image: NDArray[np.uint8], picture: Any) -> tuple[int, int]:
    """Our pixels and our grid, native and in NumPy, are upstream's; gives the grid."""
    processor, side = PROCESSORS[kind]
    want, grid = upstream(processor, picture)
    ops = picture_ops(HERE, processor, side)
    for native in (True, False) if native_available() else (False,):
        prepare = PicturePreprocessor(ops, native)
        assert prepare.grid(*image.shape[:2]) == grid
        np.testing.assert_array_equal(prepare(image), want)
    return grid


@pytest.mark.usefixtures("horizontal_first")
@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.name)
def test_a_photograph_is_prepared_as_upstream_does(kind: str, path: Path) -> None:
    both(kind, open_photo(path), load_image(str(path)))


@pytest.mark.usefixtures("horizontal_first")
@pytest.mark.parametrize("name", ["chelsea.png", "page.png", "retina.jpg", "china.jpg"])
@pytest.mark.parametrize("kind", ["SmolVLMImageProcessorPil", "Idefics3ImageProcessorPil"])
def test_photographs_are_equal_at_the_sizes_of_real_checkpoints(kind: str, name: str) -> None:
    sizes = {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}
    processor = getattr(transformers, kind)(**sizes if kind.startswith("Smol") else {})
    path = next(path for path in PHOTOGRAPHS if path.name == name)
    prepare = PicturePreprocessor(picture_ops(HERE, processor, processor.max_image_size["longest_edge"]))
    want, grid = upstream(processor, load_image(str(path)))
    image = open_photo(path)
    assert prepare.grid(*image.shape[:2]) == grid and grid[0] * grid[1] > 6
    np.testing.assert_array_equal(prepare(image), want)


@pytest.mark.parametrize("kind", PROCESSORS)
def test_most_photographs_are_equal_without_pinning_pillows_order(kind: str) -> None:
    processor, side = PROCESSORS[kind]
    prepare = PicturePreprocessor(picture_ops(HERE, processor, side))
    equal = [
        np.array_equal(prepare(open_photo(path)), upstream(processor, load_image(str(path)))[0]) for path in PHOTOGRAPHS
    ]
    assert sum(equal) >= 0.7 * len(equal)


def odd_files(root: Path) -> list[Path]:
    """Files of the modes that no photograph above has."""
    random = np.random.default_rng(7)
    rgb = random.integers(0, 256, (37, 90, 3), np.uint8)
    cv2.imwrite(str(root / "grey16.png"), random.integers(0, 65536, (41, 30), np.uint16))
    cv2.imwrite(str(root / "colour16.png"), random.integers(0, 65536, (41, 30, 3), np.uint16))
    cv2.imwrite(str(root / "alpha16.png"), random.integers(0, 65536, (41, 30, 4), np.uint16))
    Image.fromarray(np.dstack([rgb, rgb[:, :, :1]])).save(root / "alpha.png")
    Image.fromarray(rgb).quantize(9).save(root / "palette.png")
    Image.fromarray(rgb[:, :, 0] > 127).save(root / "bits.png")
    Image.fromarray(rgb[:, :, 0]).save(root / "grey.jpg")
    Image.fromarray(rgb[:1, :1]).save(root / "pixel.png")
    Image.fromarray(random.integers(0, 256, (40, 1500, 3), np.uint8)).save(root / "panorama.png")
    Image.fromarray(random.integers(0, 256, (1500, 3, 3), np.uint8)).save(root / "mast.png")
    for orientation in (3, 5, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(rgb).save(root / f"turned-{orientation}.jpg", exif=exif.tobytes())
    return sorted(root.iterdir())


@pytest.mark.usefixtures("horizontal_first")
@pytest.mark.parametrize("kind", PROCESSORS)
def test_odd_modes_turned_and_extreme_pictures_are_prepared_as_upstream_does(kind: str, tmp_path: Path) -> None:
    files = odd_files(tmp_path)
    assert len(files) == 14
    for path in files:
        both(kind, open_photo(path), load_image(str(path)))


@given(height=st.integers(1, 400), width=st.integers(1, 400), longest=st.sampled_from([20, 48, 63, 100]))
def test_the_grid_is_upstreams_for_any_size(height: int, width: int, longest: int) -> None:
    processor = transformers.SmolVLMImageProcessorPil(
        size={"longest_edge": longest}, max_image_size={"longest_edge": 16}
    )
    image = np.zeros((height, width, 3), np.uint8)
    want, grid = upstream(processor, Image.fromarray(image))
    prepare = PicturePreprocessor(picture_ops(HERE, processor, 16))
    assert prepare.grid(height, width) == grid and len(want) == grid[0] * grid[1] + 1


def test_the_cases_meet_one_tile_one_row_one_column_and_more() -> None:
    processor = transformers.SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 16})
    prepare = PicturePreprocessor(picture_ops(HERE, processor, 16))
    assert [prepare.grid(*size) for size in ((10, 10), (1, 99), (99, 1))] == [(4, 4), (1, 4), (4, 1)]
    small = transformers.SmolVLMImageProcessorPil(size={"longest_edge": 16}, max_image_size={"longest_edge": 16})
    assert PicturePreprocessor(picture_ops(HERE, small, 16)).grid(99, 5) == (0, 0)


def test_the_colour_around_a_picture_is_the_mean() -> None:
    ops = picture_ops(HERE, PROCESSORS["square"][0], 224)
    assert ops[0] == PadToSquare(fill=(122, 116, 104))
    assert isinstance(ops[-1], Normalize)


def test_another_tile_filter_or_size_would_show() -> None:
    image = open_photo(PHOTOGRAPHS[0])
    plain = PicturePreprocessor(picture_ops(HERE, PROCESSORS["tiles"][0], 64))(image)
    for more in ({"resample": 3}, {"size": {"longest_edge": 250}}, {"image_mean": [0.4, 0.5, 0.5]}):
        other = transformers.SmolVLMImageProcessorPil(**{**SMALL, **more})
        changed = PicturePreprocessor(picture_ops(HERE, other, 64))(image)
        assert changed.shape != plain.shape or not np.allclose(changed, plain, atol=1e-3), more


@pytest.mark.parametrize(
    ("processor", "side", "field"),
    [
        (transformers.SmolVLMImageProcessorPil(**SMALL), 32, "max_image_size"),
        (transformers.SmolVLMImageProcessorPil(**SMALL, resample=0), 64, "resample"),
        (transformers.SmolVLMImageProcessorPil(**SMALL, do_resize=False), 64, "do_resize"),
        (transformers.SmolVLMImageProcessorPil(**{**SMALL, "size": {"shortest_edge": 64}}), 64, "'size'"),
        (transformers.CLIPImageProcessorPil(do_pad=True), 224, "do_pad"),
        (transformers.LlavaImageProcessorPil(do_center_crop=False), 224, "do_center_crop"),
        (transformers.SiglipImageProcessorPil(), 448, "'image_size' 448"),
    ],
)
def test_settings_that_the_operations_cannot_say_are_refused_by_name(processor: Any, side: int, field: str) -> None:
    with pytest.raises(FamilyError, match=field):
        picture_ops(HERE, processor, side)
