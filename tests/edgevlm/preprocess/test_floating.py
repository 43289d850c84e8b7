"""Operations in float32: where they may stand, and what they make."""

from __future__ import annotations

import numpy as np
import pytest

from edgevlm.errors import BundleError, DependencyError
from edgevlm.manifest.contract import CameraSpec
from edgevlm.manifest.image_ops import CenterCrop, ImageOp, Normalize, ResizeWithPad, Tiles
from edgevlm.preprocess import PicturePreprocessor, Preprocessor

HALF = Normalize(scale=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CAMERA = CameraSpec(name="front", width=4, height=2, encoding="bgr8", rate_hz=(1, 1))
FIT = ResizeWithPad(width=8, height=8)


def test_a_picture_lies_at_the_bottom_and_the_rest_is_black() -> None:
    image = np.zeros((2, 4, 3), np.uint8)
    image[..., 0] = 255  # blue
    created = Preprocessor(CAMERA, [FIT, HALF])(image)
    assert created.shape == (1, 3, 8, 8) and created.dtype == np.float32
    assert (created[0, :, :4] == -1.0).all()
    assert (created[0, 2, 4:] == 1.0).all() and (created[0, :2, 4:] == -1.0).all()


def test_between_two_pixels_lie_their_shares() -> None:
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, 1:] = (51, 102, 255)
    row = Preprocessor(CAMERA, [FIT, Normalize(scale=1.0, mean=(0, 0, 0), std=(1, 1, 1))])(image)[0, 0, 4]
    np.testing.assert_allclose(row[:4], [0.0, 0.25, 0.75, 1.0], atol=1e-6)


def test_pictures_go_the_same_way_as_frames() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 3), np.uint8)
    camera = CAMERA.model_copy(update={"encoding": "rgb8"})
    assert np.array_equal(PicturePreprocessor([FIT, HALF])(image), Preprocessor(camera, [FIT, HALF])(image))
    cropped = PicturePreprocessor([CenterCrop(width=2, height=2), FIT, HALF])(image)
    assert np.array_equal(cropped, PicturePreprocessor([FIT, HALF])(image[:, 1:3]))


def test_what_fits_is_left_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    created = PicturePreprocessor([FIT, HALF])(image)
    bytes_alone = Normalize(mean=HALF.mean, std=HALF.std, rounding="each")
    np.testing.assert_allclose(created, PicturePreprocessor([bytes_alone])(image), atol=2e-7)


@pytest.mark.parametrize(
    "operations",
    [
        [HALF, FIT],
        [FIT],
        [FIT, CenterCrop(width=2, height=2), HALF],
        [FIT, FIT, HALF],
        [FIT, Normalize(mean=(0, 0, 0), std=(1, 1, 1))],
        [Tiles(size=4), FIT, HALF],
    ],
)
def test_anywhere_else_they_are_refused(operations: list[ImageOp]) -> None:
    with pytest.raises(BundleError, match=r"camera 'front': expected.*export the bundle again"):
        Preprocessor(CAMERA, operations)
    with pytest.raises(BundleError, match="export the bundle again"):
        PicturePreprocessor(operations)(np.zeros((2, 4, 3), np.uint8))


def test_a_line_of_which_nothing_is_left_is_refused() -> None:
    line = CAMERA.model_copy(update={"width": 900})
    with pytest.raises(BundleError, match="resize_with_pad: nothing is left of a picture of 900x2 in 8x8"):
        Preprocessor(line, [FIT, HALF])


def test_there_is_no_native_form() -> None:
    assert not Preprocessor(CAMERA, [FIT, HALF]).native
    with pytest.raises(DependencyError):
        Preprocessor(CAMERA, [FIT, HALF], native=True)
