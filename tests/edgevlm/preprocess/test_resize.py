"""`resize_u8` against Pillow, byte by byte.

From version 13 on Pillow may run the vertical pass first where that is cheaper; edgevlm always runs the horizontal
pass first, as Pillow did before. Two one-axis calls make every Pillow version take that order.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgevlm.errors import ShapeError
from edgevlm.manifest.image_ops import Filter
from edgevlm.preprocess import resize_u8
from edgevlm.preprocess.filters import PRECISION_BITS, taps

PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
FILTERS: tuple[Filter, ...] = ("bilinear", "bicubic", "lanczos")
SIDE = st.integers(1, 80)


def pillow(image: NDArray[np.uint8], width: int, height: int, filter: Filter) -> NDArray[np.uint8]:
    wide = Image.fromarray(image).resize((width, image.shape[0]), PILLOW[filter])
    return np.asarray(wide.resize((width, height), PILLOW[filter]))


def photograph(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth light, hard edges and sensor noise: what a camera sees."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    light = 120 + 90 * np.sin(x / 37) * np.cos(y / 23)
    light[height // 4 : height // 2, width // 3 : width // 2] = 250
    picture = light[:, :, None] * np.array([1.0, 0.8, 0.6]) + np.random.default_rng(3).normal(0, 4, (height, width, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("filter", FILTERS)
@given(height=SIDE, width=SIDE, new_height=SIDE, new_width=SIDE, seed=st.integers(0, 9), hard=st.booleans())
def test_every_byte_is_pillows_at_any_size(
    filter: Filter, height: int, width: int, new_height: int, new_width: int, seed: int, hard: bool
) -> None:
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3), np.uint8)
    if hard:  # black and white overshoot most, so clipping is met
        image = (image > 127).astype(np.uint8) * np.uint8(255)
    got = resize_u8(image, new_width, new_height, filter)
    assert np.array_equal(got, pillow(image, new_width, new_height, filter))


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("size", [(128, 96), (224, 224), (512, 512), (640, 480), (1280, 960)])
def test_one_pillow_call_gives_the_same_bytes_on_a_camera_picture(filter: Filter, size: tuple[int, int]) -> None:
    image = photograph(480, 640)
    expected = np.asarray(Image.fromarray(image).resize(size, PILLOW[filter]))
    assert np.array_equal(resize_u8(image, *size, filter), expected)


@pytest.mark.parametrize("filter", FILTERS)
def test_is_antialiased(filter: Filter) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(resize_u8(stripes, 8, 64, filter)[:, 2:-2].astype(int)) <= 2, "fine stripes must blend into grey"


def test_the_filters_differ() -> None:
    image = photograph(60, 80)
    bilinear, bicubic, lanczos = (resize_u8(image, 33, 21, filter) for filter in FILTERS)
    assert not np.array_equal(bicubic, bilinear)
    assert not np.array_equal(bicubic, lanczos)


@given(size_in=st.integers(1, 2000), size_out=st.integers(1, 500), filter=st.sampled_from(FILTERS))
def test_weights_of_a_pixel_sum_to_one(size_in: int, size_out: int, filter: Filter) -> None:
    table = taps(size_in, size_out, filter)
    totals = table.weight.sum(axis=1, dtype=np.int64)
    assert np.abs(totals - (1 << PRECISION_BITS)).max() <= table.weight.shape[1]
    assert table.index.min() >= 0
    assert table.index.max() < size_in


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)],
    ids=["flat", "float", "empty"],
)
def test_refuses_what_is_no_picture(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ShapeError, match=r"expected uint8 \(H, W, C\)"):
        resize_u8(image, 2, 2, "bilinear")


def test_refuses_an_empty_result() -> None:
    with pytest.raises(ShapeError, match="at least 1"):
        resize_u8(np.zeros((4, 4, 3), np.uint8), 0, 2, "bilinear")
