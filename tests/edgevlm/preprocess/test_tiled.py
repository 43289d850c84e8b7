"""Pictures of any size: sizes that depend on the picture, squares, tiles, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from edgevlm.errors import BundleError, PictureError, ShapeError
from edgevlm.manifest.contract import CameraSpec
from edgevlm.manifest.image_ops import (
    CenterCrop,
    ImageOp,
    Normalize,
    Pad,
    PadToSquare,
    Relative,
    Resize,
    ResizeLongest,
    ResizeShortest,
    ResizeToMultiple,
    Sized,
    Tiles,
)
from edgevlm.preprocess import PicturePreprocessor, Preprocessor, native_available, resize_u8
from edgevlm.preprocess.picture import SQUARE_SIDE
from edgevlm.preprocess.sizes import sized

BYTES = Normalize(scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # the model's numbers are the bytes
TILES = (
    ResizeLongest(size=48, limit=4096, filter="lanczos"),
    ResizeToMultiple(size=16, filter="lanczos"),
    Tiles(size=16, filter="lanczos"),
    BYTES,
)
BOTH = [
    pytest.param(True, marks=pytest.mark.skipif(not native_available(), reason="not built"), id="native"),
    pytest.param(False, id="twin"),
]


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def planes(image_hwc: NDArray[np.uint8]) -> NDArray[np.float32]:
    return image_hwc.transpose(2, 0, 1).astype(np.float32)


@pytest.mark.parametrize("native", BOTH)
def test_tiles_come_row_by_row_and_the_thumbnail_last(native: bool) -> None:
    image = picture(32, 48)  # no resize: 2 rows of 3
    prepare = PicturePreprocessor([Tiles(size=16, filter="lanczos"), BYTES], native)
    got = prepare(image)
    assert prepare.grid(32, 48) == (2, 3) and got.shape == (7, 3, 16, 16) and got.dtype == np.float32
    for place in range(6):
        top, left = place // 3 * 16, place % 3 * 16
        np.testing.assert_array_equal(got[place], planes(image[top : top + 16, left : left + 16]))
    np.testing.assert_array_equal(got[6], planes(resize_u8(image, 16, 16, "lanczos")))


@pytest.mark.parametrize("native", BOTH)
def test_the_thumbnail_comes_from_the_second_resize(native: bool) -> None:
    image = picture(20, 48)
    got = PicturePreprocessor(TILES, native)(image)
    second = resize_u8(image, 48, 32, "lanczos")
    np.testing.assert_array_equal(got[-1], planes(resize_u8(second, 16, 16, "lanczos")))
    assert not np.array_equal(got[-1], planes(resize_u8(image, 16, 16, "lanczos")))


@pytest.mark.parametrize("native", BOTH)
def test_a_picture_of_one_tile_is_that_tile_alone(native: bool) -> None:
    image = picture(16, 16)
    prepare = PicturePreprocessor([ResizeToMultiple(size=16), Tiles(size=16), BYTES], native)
    assert prepare.grid(16, 16) == (0, 0)
    np.testing.assert_array_equal(prepare(image), planes(image)[None])


def test_pictures_that_are_not_cut_have_no_grid() -> None:
    prepare = PicturePreprocessor([Resize(height=8, width=8), BYTES])
    assert prepare.grid(100, 30) == (0, 0) and len(prepare(picture(100, 30))) == 1


@pytest.mark.skipif(not native_available(), reason="not built")
@given(height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 9))
def test_native_equals_its_twin_and_the_grid_is_known_before(height: int, width: int, seed: int) -> None:
    image = picture(height, width, seed)
    native, twin = PicturePreprocessor(TILES, True), PicturePreprocessor(TILES, False)
    rows, columns = native.grid(height, width)
    got = native(image)
    assert got.shape == (rows * columns + 1, 3, 16, 16)
    assert np.array_equal(got, twin(image))


def test_a_part_of_a_larger_array_is_taken_too() -> None:
    large = picture(60, 90)
    part = large[5:45, 7:80]
    prepare = PicturePreprocessor(TILES)
    assert np.array_equal(prepare(part), prepare(part.copy()))


def sides(height: int, width: int, *steps: Sized | Relative) -> list[tuple[int, int]]:
    return [(step.height, step.width) for step in sized(height, width, steps)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (1536, 2048)),
        ((640, 480), (2048, 1536)),
        ((100, 300), (682, 2048)),
        ((101, 300), (690, 2048)),  # 689 is odd
        ((1, 4000), (1, 2048)),  # int(2048 / 4000) is 0
        ((7, 7), (2048, 2048)),
    ],
)
def test_the_longer_side_is_as_asked_and_the_shorter_even(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert sides(*size, ResizeLongest(size=2048, limit=4096)) == [expected]


def test_no_side_goes_above_the_limit() -> None:
    assert sides(300, 600, ResizeLongest(size=5000, limit=4096)) == [(2048, 4096)]
    assert sides(600, 300, ResizeLongest(size=5000, limit=4096)) == [(4096, 2048)]


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), size=st.integers(1, 600))
def test_sides_become_integer_multiples_and_never_smaller(height: int, width: int, size: int) -> None:
    [(tall, wide)] = sides(height, width, ResizeToMultiple(size=size))
    assert tall % size == wide % size == 0
    assert max(tall, wide) >= max(height, width) and min(tall, wide) >= size


@pytest.mark.parametrize(("size", "expected"), [((34, 12), (48, 16)), ((12, 34), (16, 48)), ((34, 13), (48, 32))])
def test_the_shorter_side_loses_its_fraction_before_it_grows(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert sides(*size, ResizeToMultiple(size=16)) == [expected]  # 12 * 48 / 34 is 16.9, 13 * 48 / 34 is 18.4


@pytest.mark.parametrize("native", BOTH)
@pytest.mark.parametrize("size", [(5, 9), (9, 4), (6, 6)])
def test_the_shorter_side_is_filled_with_the_colour_on_both_sides(size: tuple[int, int], native: bool) -> None:
    image = picture(*size)
    padded = np.empty((max(size), max(size), 3), np.uint8)
    padded[:] = (10, 20, 30)
    top, left = ((max(size) - side) // 2 for side in size)
    padded[top : top + size[0], left : left + size[1]] = image
    got = PicturePreprocessor([PadToSquare(fill=(10, 20, 30)), BYTES], native)(image)
    np.testing.assert_array_equal(got[0], planes(padded))


@pytest.mark.parametrize("native", BOTH)
def test_a_square_is_resized_and_cropped_after(native: bool) -> None:
    ops = [PadToSquare(fill=(1, 2, 3)), ResizeShortest(size=12), CenterCrop(width=8, height=10), BYTES]
    image = picture(5, 9)
    square = np.full((9, 9, 3), (1, 2, 3), np.uint8)
    square[2:7] = image
    got = PicturePreprocessor(ops, native)(image)
    np.testing.assert_array_equal(got[0], planes(resize_u8(square, 12, 12, "bilinear")[1:11, 2:10]))


@pytest.mark.parametrize(
    "ops",
    [
        [Tiles(size=16)],
        [BYTES, Tiles(size=16)],
        [Tiles(size=16), Tiles(size=16), BYTES],
        [Tiles(size=16), Resize(height=16, width=16), BYTES],
        [CenterCrop(height=16, width=16), Tiles(size=16), BYTES],
        [Pad(height=16, width=16), Tiles(size=16), BYTES],
    ],
    ids=["no-normalize", "last", "twice", "not-last", "after-a-crop", "after-a-pad"],
)
def test_tiles_stand_before_normalize_and_after_resizes_alone(ops: Sequence[ImageOp]) -> None:
    with pytest.raises(BundleError, match="expected resizes, then `tiles`, then `normalize`"):
        PicturePreprocessor(ops)


def test_a_picture_that_is_no_integer_number_of_tiles_is_refused() -> None:
    prepare = PicturePreprocessor([Resize(height=32, width=40), Tiles(size=16), BYTES])
    for ask in (lambda: prepare.grid(9, 9), lambda: prepare(picture(9, 9))):
        with pytest.raises(BundleError, match=r"multiples of the tile's 16 before `tiles`, got 40x32"):
            ask()


def test_a_camera_has_no_tiles() -> None:
    camera = CameraSpec(name="front", width=32, height=32, rate_hz=(1, 1))
    with pytest.raises(BundleError, match=r"camera 'front': expected one normalize, .*, and no tiles"):
        Preprocessor(camera, [Tiles(size=16), BYTES])


def test_a_square_that_would_fill_the_memory_is_refused() -> None:
    prepare = PicturePreprocessor([PadToSquare(fill=(0, 0, 0)), Resize(height=8, width=8), BYTES])
    line = np.zeros((1, SQUARE_SIDE + 1, 3), np.uint8)
    for ask in (lambda: prepare(line), lambda: prepare.grid(1, SQUARE_SIDE + 1)):
        with pytest.raises(PictureError, match="padded to a square"):
            ask()


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), "a path"])
def test_what_is_no_picture_is_refused(image: object) -> None:
    with pytest.raises(ShapeError, match=r"expected uint8 \(H, W, 3\)"):
        PicturePreprocessor(TILES)(image)  # type: ignore[arg-type]


@pytest.mark.parametrize("native", BOTH)
def test_threads_may_share_one_among_many_sizes(native: bool) -> None:
    prepare = PicturePreprocessor(TILES, native)
    images = [picture(20 + 7 * seed, 30 + seed, seed) for seed in range(4)]
    expected = [PicturePreprocessor(TILES, native)(image) for image in images]
    wrong: list[int] = []

    def work(index: int) -> None:
        wrong.extend(index for _ in range(20) if not np.array_equal(prepare(images[index]), expected[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "settings",
    [
        {"op": "tiles", "size": 0},
        {"op": "resize_longest", "size": 8},
        {"op": "resize_to_multiple", "size": 8, "filter": "nearest"},
        {"op": "pad_to_square", "fill": [0, 0, 256]},
        {"op": "pad_to_square", "fill": [0, 0]},
        {"op": "tiles", "size": 8, "overlap": 2},
    ],
)
def test_an_operation_with_a_wrong_value_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ImageOp).validate_python(settings)
