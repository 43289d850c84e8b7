"""`Preprocessor`: operations checked with Pillow and NumPy, the native module with its twin, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgevlm.errors import BundleError, DependencyError, ShapeError
from edgevlm.images.encodings import ENCODINGS
from edgevlm.manifest.contract import CHANNELS, CameraSpec, Encoding
from edgevlm.manifest.image_ops import CenterCrop, ImageOp, Normalize, Pad, Resize
from edgevlm.preprocess import Preprocessor, native_available

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALIZE = Normalize(mean=MEAN, std=STD)
needs_native = pytest.mark.skipif(not native_available(), reason="installed without the native module")
BOTH = [pytest.param(True, marks=needs_native, id="native"), pytest.param(False, id="twin")]


def camera(width: int = 40, height: int = 30, encoding: Encoding = "rgb8") -> CameraSpec:
    return CameraSpec(name="front", width=width, height=height, encoding=encoding, rate_hz=(10, 30))


def frame(spec: CameraSpec, padding: int = 0, seed: int = 0) -> NDArray[np.uint8]:
    """A random frame whose buffer ends with its last pixel."""
    channels = CHANNELS[spec.encoding]
    step = spec.width * channels + padding
    size = step * (spec.height - 1) + spec.width * channels
    buffer = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return np.ndarray(spec.shape, np.uint8, buffer, strides=(step, channels, 1)[: len(spec.shape)])


def rgb(image: NDArray[np.uint8], encoding: Encoding) -> NDArray[np.uint8]:
    if encoding == "mono8":
        return np.stack([image] * 3, axis=-1)
    colors = image[:, :, :3]
    return colors[:, :, ::-1] if encoding.startswith("bgr") else colors


def as_model_input(image_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    scaled = (image_rgb.astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    return scaled.astype(np.float32).transpose(2, 0, 1)[None]


@pytest.mark.parametrize("native", BOTH)
@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_equals_pillow_and_numpy_for_every_encoding(encoding: Encoding, padding: int, native: bool) -> None:
    spec = camera(encoding=encoding)
    image = frame(spec, padding)
    resized = Image.fromarray(np.ascontiguousarray(rgb(image, encoding))).resize((20, 15), Image.Resampling.BILINEAR)
    got = Preprocessor(spec, [Resize(width=20, height=15), NORMALIZE], native=native)(image)
    np.testing.assert_allclose(got, as_model_input(np.asarray(resized)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("native", BOTH)
def test_crops_the_middle_and_pads_the_right_and_the_bottom(native: bool) -> None:
    spec = camera(width=7, height=6)
    image = frame(spec)
    ops = [CenterCrop(width=4, height=3), Pad(width=5, height=6, fill=9), NORMALIZE]
    expected = np.full((6, 5, 3), 9, np.uint8)
    expected[:3, :4] = image[1:4, 1:5]
    got = Preprocessor(spec, ops, native=native)(image)
    np.testing.assert_allclose(got, as_model_input(expected), rtol=0, atol=1e-6)


SIDE, FILTER = st.integers(1, 40), st.sampled_from(["bilinear", "bicubic", "lanczos"])


@st.composite
def chains(draw: st.DrawFn) -> tuple[CameraSpec, list[ImageOp], int]:
    spec = camera(draw(SIDE), draw(SIDE), draw(st.sampled_from(ENCODINGS)))
    height, width = spec.height, spec.width
    ops: list[ImageOp] = []
    for kind in draw(st.sampled_from(["", "r", "c", "p", "cr", "rc", "crc", "crcp", "rp", "cp"])):
        if kind == "r":
            height, width = draw(SIDE), draw(SIDE)
            ops.append(Resize(width=width, height=height, filter=draw(FILTER)))
        elif kind == "c":
            height, width = draw(st.integers(1, height)), draw(st.integers(1, width))
            ops.append(CenterCrop(width=width, height=height))
        else:
            height, width = height + draw(st.integers(0, 5)), width + draw(st.integers(0, 5))
            ops.append(Pad(width=width, height=height, fill=draw(st.integers(0, 255))))
    return spec, [*ops, NORMALIZE], draw(st.integers(0, 9))


@needs_native
@given(chain=chains(), seed=st.integers(0, 9))
def test_native_equals_its_twin_bit_by_bit(chain: tuple[CameraSpec, list[ImageOp], int], seed: int) -> None:
    spec, ops, padding = chain
    image = frame(spec, padding, seed)
    native, twin = Preprocessor(spec, ops, native=True), Preprocessor(spec, ops, native=False)
    assert (native.native, twin.native) == (True, False)
    assert native.shape == twin.shape == native(image).shape
    assert np.array_equal(native(image), twin(image))


def test_an_order_the_native_module_does_not_fuse_goes_through_the_twin() -> None:
    ops = [Pad(width=41, height=31), Resize(width=10, height=8), NORMALIZE]
    preprocess = Preprocessor(camera(), ops)
    assert not preprocess.native
    assert preprocess(frame(camera())).shape == (1, 3, 8, 10)
    with pytest.raises(DependencyError, match=r"\[pad, resize\]"):
        Preprocessor(camera(), ops, native=True)


@pytest.mark.parametrize("native", BOTH)
def test_fills_out_and_returns_it(native: bool) -> None:
    preprocess = Preprocessor(camera(), [Resize(width=8, height=6), NORMALIZE], native=native)
    out = np.full(preprocess.shape, np.nan, np.float32)
    assert preprocess(frame(camera()), out) is out
    assert np.array_equal(out, preprocess(frame(camera())))


@pytest.mark.parametrize("native", BOTH)
def test_leaves_the_frame_alone_and_takes_a_read_only_one(native: bool) -> None:
    image = frame(camera())
    before = image.copy()
    image.flags.writeable = False
    Preprocessor(camera(), [Resize(width=8, height=6), NORMALIZE], native=native)(image)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("native", BOTH)
def test_threads_may_share_one(native: bool) -> None:
    spec = camera(160, 120)
    preprocess = Preprocessor(spec, [Resize(width=40, height=30, filter="bicubic"), NORMALIZE], native=native)
    images = [frame(spec, seed=seed) for seed in range(4)]
    expected = [preprocess(image) for image in images]
    wrong: list[int] = []

    def work(index: int) -> None:
        wrong.extend(index for _ in range(30) if not np.array_equal(preprocess(images[index]), expected[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("native", BOTH)
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((40, 30, 3), np.uint8),
        np.zeros((30, 40, 4), np.uint8),
        np.zeros((30, 40), np.uint8),
        np.zeros((30, 40, 3), np.float32),
        np.zeros((30, 80, 3), np.uint8)[:, ::2],
        np.zeros((30, 40, 3), np.uint8)[:, :, ::-1],
        [[1, 2, 3]],
    ],
    ids=["swapped", "rgba", "grey", "float", "every-second", "reversed-channels", "list"],
)
def test_refuses_a_frame_that_is_not_the_cameras(image: NDArray[np.uint8], native: bool) -> None:
    preprocess = Preprocessor(camera(), [NORMALIZE], native=native)
    with pytest.raises(ShapeError, match=r"camera 'front': expected uint8 \(30, 40, 3\) in rgb8.* got"):
        preprocess(image)


READ_ONLY = np.zeros((1, 3, 30, 40), np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((3, 30, 40), np.float32),
        np.zeros((1, 3, 30, 40), np.float64),
        np.zeros((1, 3, 30, 80), np.float32)[..., ::2],
        READ_ONLY,
    ],
    ids=["shape", "dtype", "strided", "read-only"],
)
def test_refuses_an_out_it_cannot_fill(out: NDArray[np.float32]) -> None:
    preprocess = Preprocessor(camera(), [NORMALIZE])
    with pytest.raises(ShapeError, match="expected writable contiguous float32"):
        preprocess(frame(camera()), out)


@pytest.mark.parametrize(
    "ops",
    [
        [],
        [Resize(width=4, height=4)],
        [NORMALIZE, NORMALIZE],
        [NORMALIZE, Resize(width=4, height=4)],
        [Normalize(mean=MEAN, std=(1.0, 0.0, 1.0))],
        [CenterCrop(width=41, height=30), NORMALIZE],
        [Pad(width=40, height=29), NORMALIZE],
        [Resize(width=8, height=8), CenterCrop(width=9, height=8), NORMALIZE],
    ],
    ids=["none", "no-normalize", "two", "not-last", "zero-std", "crop-too-large", "pad-too-small", "crop-after-resize"],
)
def test_refuses_operations_that_do_not_fit(ops: Sequence[ImageOp]) -> None:
    with pytest.raises(BundleError, match="preprocess of camera 'front'"):
        Preprocessor(camera(), ops)
