"""A .npy file of anybody's gives an array of the size of the file, or one kind of error, and allocates nothing more."""

from __future__ import annotations

import io
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib import format as npy

from edgevlm.bounded import map_numbers

DATA = 64  # bytes of the array
LIMIT = 1 << 20  # of memory: a thousand times the file

_TYPES = st.sampled_from(
    ["<f4", ">f8", "|u1", "|b1", "<i8", "|O", "|V4", "<U1", "<M8[s]", "<c8", "O", "f", "<q9", "a4"]
)
_SIDES = st.integers(-2, 20) | st.sampled_from([2**31, 2**62, 2**63, 2**64, 10**40, True, 4.0, None, "4"])
_SHAPES = st.lists(_SIDES, max_size=5).map(tuple) | st.just((1,) * 70) | st.just([4, 4]) | st.just(16)
_FIELDS: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"descr": _TYPES | st.just([("a", "<f4")]) | st.just(4), "fortran_order": st.sampled_from([True, False, "C", 1])},
    optional={"shape": _SHAPES, "more": st.none()},
)
_HEADERS = _FIELDS.map(repr) | st.text(max_size=40) | st.integers(1, 400).map("(".__mul__)
_HEADERS |= st.sampled_from(
    ["{'descr': '<f4', 'fortran_order': False, 'shape': (4L, 4L)}", "'\\d'", "{[]: 1}", "{}\n  3\n 4"]
)


def with_header(header: str, version: tuple[int, int]) -> bytes:
    text = header.encode("utf-8", "replace")
    return npy.magic(*version) + len(text).to_bytes(2 if version == (1, 0) else 4, "little") + text + bytes(DATA)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    stream = io.BytesIO()
    npy.write_array(stream, np.arange(DATA // 4, dtype="<f4").reshape(4, 4))
    data = bytearray(stream.getvalue())
    for place, value in draw(st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), max_size=3)):
        data[place] = value
    return bytes(data[: draw(st.integers(0, len(data)) | st.just(len(data)))]) + draw(st.binary(max_size=4))


def check(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with warnings.catch_warnings(record=True) as leaked:
            warnings.simplefilter("always")
            array = map_numbers(path)
    except ValueError:
        return
    finally:
        peak, _ = tracemalloc.get_traced_memory()[::-1]
        tracemalloc.stop()
        assert peak < LIMIT and not leaked
    assert array.dtype.kind in "biuf" and array.nbytes < len(data)
    array.sum()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("npy") / "f.npy"


@given(changed())
def test_changed_and_cut_bytes(file: Path, data: bytes) -> None:
    check(file, data)


@given(_HEADERS, st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 0)]))
def test_headers_of_any_content(file: Path, header: str, version: tuple[int, int]) -> None:
    check(file, with_header(header, version) if version != (9, 0) else b"\x93NUMPY\x09\x00" + header.encode())


@given(st.dictionaries(st.text("ab", min_size=1, max_size=3), st.integers(0, 50), max_size=3))
def test_archives_are_refused(file: Path, sizes: dict[str, int]) -> None:
    np.savez_compressed(file.with_suffix(".npz"), **{name: np.zeros(size) for name, size in sizes.items()})
    with pytest.raises(ValueError):
        map_numbers(file.with_suffix(".npz"))


@given(st.lists(st.integers(0, 5), max_size=4), st.sampled_from(["<f4", ">f2", "|b1", "|i1", "<u8"]), st.booleans())
def test_any_array_of_numbers_comes_back(file: Path, shape: list[int], kind: str, fortran: bool) -> None:
    array = np.arange(np.prod(shape, dtype=int)).astype(kind).reshape(shape, order="F" if fortran else "C")
    np.save(file, array)
    read = map_numbers(file)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype


def test_what_cannot_be_read_is_an_oserror(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(OSError):
            map_numbers(path)
