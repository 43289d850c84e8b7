"""Padded to a square, smoothed and resized in float32: against a picture that really is padded, and by what it keeps.

That it equals upstream's own image processor is shown in tests/export/test_detector_inputs.py.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevlm.errors import PictureError
from edgevlm.manifest.image_ops import Normalize, SmoothToSquare
from edgevlm.preprocess import PicturePreprocessor

PLAIN = Normalize(scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)


def prepared(image: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """float32 (size, size, 3)"""
    created = PicturePreprocessor((SmoothToSquare(size=size), PLAIN))(image)
    assert created.shape == (1, 3, size, size) and created.dtype == np.float32
    return created[0].transpose(1, 2, 0)


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), size=st.integers(1, 40))
def test_a_picture_is_what_its_square_is(height: int, width: int, size: int) -> None:
    image = picture(height, width)
    square = np.zeros((max(height, width),) * 2 + (3,), np.uint8)
    square[:height, :width] = image
    np.testing.assert_allclose(prepared(image, size), prepared(square, size), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(side=st.integers(1, 90), size=st.integers(1, 40), value=st.integers(0, 255))
def test_one_colour_stays_itself_up_to_every_edge(side: int, size: int, value: int) -> None:
    created = prepared(np.full((side, side, 3), value, np.uint8), size)
    np.testing.assert_allclose(created, value / 255, atol=1e-6)
    assert created.min() >= 0 and created.max() <= 1 + 1e-6


def test_a_picture_of_the_size_stays_as_it_is() -> None:
    image = picture(24, 24)
    np.testing.assert_allclose(prepared(image, 24), image / np.float32(255), atol=1e-7)


def test_the_padding_around_the_picture_is_black() -> None:
    created = prepared(np.full((20, 60, 3), 255, np.uint8), 30)
    assert (created[:9] > 0.99).all() and (created[12:] == 0).all()


def test_a_picture_that_shrinks_is_smoothed() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    created = prepared(stripes, 16)
    assert np.ptp(created) < 0.1  # without the Gaussian, columns of pure black or white would come out


def test_channels_do_not_mix_and_axes_are_not_swapped() -> None:
    image = np.zeros((30, 30, 3), np.uint8)
    image[:10, :, 0], image[:, :10, 1] = 200, 100
    created = prepared(image, 12)
    assert (
        created[0, 11, 0] > 0.7 and created[11, 0, 0] < 0.01 and created[11, 0, 1] > 0.35 and created[0, 11, 1] < 0.01
    )
    assert (created[..., 2] == 0).all()


def test_a_panorama_never_becomes_a_square() -> None:
    image = np.zeros((4, 16_000, 3), np.uint8)
    image[..., 0] = 255
    tracemalloc.start()
    created = prepared(image, 64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6 < 16_000**2 and created[0, :, 0].min() > 0
    with pytest.raises(PictureError, match="sides of at most 16384"):
        prepared(np.zeros((1, 16_385, 3), np.uint8), 64)


def test_threads_may_share_one() -> None:
    from concurrent.futures import ThreadPoolExecutor

    shared = PicturePreprocessor((SmoothToSquare(size=16), PLAIN))
    images = [picture(40, 30, seed) for seed in range(8)]
    want = [shared(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for got, expected in zip(pool.map(shared, images * 4), want * 4, strict=True):
            np.testing.assert_array_equal(got, expected)
